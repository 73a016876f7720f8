"""What the kit holds and how large it may be, without packages."""

import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from gpu import kit


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "files/site").mkdir(parents=True)
    (tmp_path / "files/site/large.bin").write_bytes(bytes(range(256)) * 1000)
    return tmp_path


def test_a_part_has_what_its_script_checks(folder: Path):
    part = kit.make_part(2, folder / "files", folder)
    assert {path.name for path in part.iterdir()} == {"run.sh", "environment.sh", "files.tar.xz", "SHA256SUMS"}
    check = ["sha256sum", "--check", "--quiet", "SHA256SUMS"]
    assert subprocess.run(check, cwd=part, check=False).returncode == 0
    (part / "run.sh").write_text("cut off")
    assert subprocess.run(check, cwd=part, check=False, capture_output=True).returncode == 1


def test_a_part_that_is_too_large_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(kit, "MAX_PART_BYTES", 1000)
    with pytest.raises(SystemExit, match=r"part 1 has [\d,]+ bytes, allowed are 1,000; site is most of it"):
        kit.make_part(1, folder / "files", folder)


def test_a_step_that_is_cut_off_leaves_no_process():
    # As a server does: a session of its own, deaf to SIGTERM, and orphaned as soon as its starter has gone.
    deaf = "setsid sh -c 'trap \"\" TERM; echo $$; while :; do sleep 1; done' & wait"
    command = [sys.executable, "-m", "gpu.limited", "2", "sh", "-c", deaf]
    environment = os.environ | {"PYTHONPATH": str(Path(kit.__file__).parents[1])}
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, timeout=60, check=False)
    assert done.returncode == 124
    assert not psutil.pid_exists(int(done.stdout))


def test_every_package_has_a_version_in_the_lock():
    pins = kit.locked(kit.package_names(), kit.LOCK.read_text(encoding="utf-8"))
    assert "vllm==0.32.0" in pins


def test_the_client_imports_with_the_stand_in_for_av(tmp_path: Path):
    (tmp_path / "av.py").write_text((Path(kit.__file__).with_name("stand_in_for_av.py")).read_text())
    program = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); import video_llava_client, av; print(av.__file__)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == str(tmp_path / "av.py")
