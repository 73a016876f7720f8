"""The command `video-llava-drain`; what it and the models tell each other: test_drain.py."""

import os
import subprocess
import sys
import time
from pathlib import Path

from video_llava_server.runtime_folder import Occupancy, RuntimeFolder

COMMAND = Path(sys.executable).with_name("video-llava-drain")


def run(*arguments: str, folder: Path | None = None) -> tuple[int, str]:
    # Wide, so that no path is broken over two lines.
    environment = os.environ | {"COLUMNS": "300"} | ({} if folder is None else {"VIDEO_LLAVA_RUNTIME_DIR": str(folder)})
    done = subprocess.run(
        [COMMAND, *arguments], capture_output=True, text=True, env=environment, check=False, timeout=60
    )
    return done.returncode, done.stderr


def test_an_idle_server_is_drained_at_once(tmp_path: Path) -> None:
    code, said = run("--timeout", "50", folder=tmp_path)
    assert (code, said.startswith("drained after")) == (0, True)
    assert float((tmp_path / "drain").read_text()) > 0
    assert [path.name for path in tmp_path.iterdir()] == ["drain"]


def test_it_is_announced_before_anything_is_refused(tmp_path: Path) -> None:
    command = [COMMAND, "--runtime-dir", tmp_path, "--announce", "3", "--timeout", "30"]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
        while not (tmp_path / "leaving").exists():
            assert process.poll() is None
            time.sleep(0.01)
        assert not (tmp_path / "drain").exists()
        assert process.wait(timeout=60) == 0
    assert (tmp_path / "drain").exists()


def test_what_did_not_end_by_itself_is_told_by_the_exit_code(tmp_path: Path) -> None:
    RuntimeFolder(tmp_path).write_occupancy(Occupancy(num_in_flight=1, max_requests=256))
    code, said = run("--runtime-dir", str(tmp_path), "--timeout-seconds", "0")
    assert code == 1
    assert said.startswith("requests still ran after 0 s and were ended")


def test_a_folder_that_is_none_is_bad_input(tmp_path: Path) -> None:
    code, said = run("--runtime-dir", str(tmp_path / "missing"))
    assert code == 2
    assert "missing" in said
