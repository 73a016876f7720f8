"""However a server ends, nothing of it is left."""

import signal
import struct
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
from support.export import FREE_PORTS
from support.launcher import FREE_PORT_OPTIONS, files_of, wait_until_gone
from video_llava_serve import LocalServer


def test_sigterm_stops_everything(launch: Callable[..., Any], small_repository: Path, tmp_path: Path) -> None:
    log = tmp_path / "server.log"
    launcher = launch("--repository", small_repository, *FREE_PORT_OPTIONS, "--log-file", log)
    launcher.wait_ready()
    processes, prefix = launcher.descendants(), launcher.shared_memory_prefix()
    assert {process.name() for process in processes} >= {"tritonserver", "triton_python_backend_stub"}
    assert files_of(prefix)

    launcher.process.send_signal(signal.SIGTERM)

    assert launcher.finish() == 0, launcher.stderr
    assert "batching is ready" in launcher.stderr
    assert launcher.stderr.endswith("stopped\n")
    assert wait_until_gone(processes) == []
    assert files_of(prefix) == []
    assert "successfully unloaded 'batching'" in log.read_text(encoding="utf-8")


def test_a_signal_that_comes_with_the_ready_line_stops_in_order(small_repository: Path, tmp_path: Path) -> None:
    started: list[psutil.Process] = []

    def interrupt_when_ready(line: str) -> None:
        if line.startswith("ready after"):
            tritonserver = psutil.Process(server.pid)
            started.extend([tritonserver, *tritonserver.children(recursive=True)])
            raise KeyboardInterrupt

    server = LocalServer(
        repository=small_repository,
        **FREE_PORTS,
        log_path=tmp_path / "server.log",
        report=interrupt_when_ready,
    )
    with pytest.raises(KeyboardInterrupt):
        server.start()

    assert server.stopped_cleanly
    assert started
    assert wait_until_gone(started) == []


def test_a_second_sigterm_waits_for_nothing(launch: Callable[..., Any], small_repository: Path, tmp_path: Path) -> None:
    log = tmp_path / "server.log"
    launcher = launch(
        "--repository", small_repository, *FREE_PORT_OPTIONS, "--log-file", log, "--exit-timeout-seconds", "1000"
    )
    launcher.wait_ready()
    processes = launcher.descendants()
    (folder,) = Path(tempfile.gettempdir()).glob(f"{launcher.shared_memory_prefix()}*")
    (folder / "vicuna").write_bytes(struct.pack("<qqqd", 1, 1, 1, 0.0))  # one request, which never ends

    launcher.process.send_signal(signal.SIGTERM)
    while not (folder / "drain").exists():
        time.sleep(0.05)
    launcher.process.send_signal(signal.SIGTERM)

    launcher.finish()  # its code says whether that took force: after two seconds it does
    assert "stopping at once\nstopped" in launcher.stderr
    assert wait_until_gone(processes) == []


def test_a_killed_launcher_takes_its_server_along(
    launch: Callable[..., Any], small_repository: Path, tmp_path: Path
) -> None:
    launcher = launch("--repository", small_repository, *FREE_PORT_OPTIONS, "--log-file", tmp_path / "server.log")
    launcher.wait_ready()
    processes, prefix = launcher.descendants(), launcher.shared_memory_prefix()

    launcher.process.kill()

    assert wait_until_gone(processes) == []
    assert files_of(prefix) == []


def test_without_restart_a_dead_server_ends_the_command(
    launch: Callable[..., Any], small_repository: Path, tmp_path: Path
) -> None:
    log = tmp_path / "server.log"
    launcher = launch("--repository", small_repository, *FREE_PORT_OPTIONS, "--log-file", log, "--no-restart")
    launcher.wait_ready()
    processes, prefix = launcher.descendants(), launcher.shared_memory_prefix()

    launcher.tritonserver().kill()

    assert launcher.finish() == 1
    assert "tritonserver ended by itself (SIGKILL, out of memory?)" in launcher.stderr
    assert str(log) in launcher.stderr
    assert wait_until_gone(processes) == []
    assert files_of(prefix) == []


def test_what_has_died_is_started_again_with_growing_pauses(
    launch: Callable[..., Any], small_repository: Path, tmp_path: Path
) -> None:
    log = tmp_path / "server.log"
    launcher = launch("--repository", small_repository, *FREE_PORT_OPTIONS, "--log-file", log)
    url = launcher.wait_ready()
    first = launcher.tritonserver()
    first.kill()
    assert launcher.wait_ready() == url
    assert log.with_name("server.log.1").exists()

    # Triton itself goes on, and says that it is ready.
    (stub,) = launcher.tritonserver().children()
    stub.kill()
    assert launcher.wait_ready() == url

    said = launcher.stderr
    assert "tritonserver ended by itself (SIGKILL, out of memory?)" in said
    assert "the process of the model 'batching' has died" in said
    assert said.index("starting again in 1 s") < said.index("starting again in 2 s")
    assert wait_until_gone([first, stub]) == []
