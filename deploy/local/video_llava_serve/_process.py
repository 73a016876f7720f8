"""The server as a process: started, waited for, stopped with everything that it started."""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from video_llava_server.features import MEGABYTES_VARIABLE
from video_llava_server.log_file import VARIABLE as LOG_VARIABLE
from video_llava_server.manifest import ModelFolderError
from video_llava_server.repository import UNLOAD_SECONDS, assemble

from ._command import assemble_backends, server_command, server_environment, tracing_environment
from ._errors import RepositoryError, StartError
from ._log import LogFile, LogPipe
from ._options import ServerOptions
from ._wheel import TritonWheel

if TYPE_CHECKING:
    from ._reaper import Task

_REAPER = Path(__file__).parent / "_reaper.py"
# Beyond Triton's own limit, after which it should have exited by itself.
_MARGIN_SECONDS = 5.0
# Beyond that: the reaper ends what the server has left and removes its files.
_CLEAN_UP_SECONDS = 15.0


class ServerProcess:
    """A running tritonserver under its reaper (see `_reaper`)."""

    def __init__(self, reaper: subprocess.Popen[bytes], *, runtime_folder: Path, stop_timeout_seconds: float) -> None:
        self.runtime_folder = runtime_folder
        """by which its models can be told to drain"""
        self._reaper = reaper
        self._stop_timeout_seconds = stop_timeout_seconds
        assert reaper.stdout is not None
        with reaper.stdout:
            self._first_line = reaper.stdout.readline()

    @classmethod
    def launch(cls, options: ServerOptions, *, log: LogFile | LogPipe, environment: Mapping[str, str]) -> Self:
        """Start the server on the ports in `options`; its output and its reaper's go to `log`.

        Raises `InstallationError` when a part of it is missing, `RepositoryError` when there is no model to serve,
        `StartError` when it cannot be executed.
        """
        wheel = TritonWheel.find()
        task, engine_arguments = _prepare(wheel, options)
        variables = server_environment(
            wheel, engine_arguments, tracing_environment(options.otlp_endpoint) | dict(environment)
        )
        # The server's own working directory is the run directory.
        request_log = {LOG_VARIABLE: str(Path(options.request_log).absolute())} if options.request_log else {}
        with log.open() as output:
            reaper = subprocess.Popen(
                [sys.executable, "-I", str(_REAPER), task.to_json()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=output,
                env={
                    **variables,
                    **request_log,
                    MEGABYTES_VARIABLE: str(options.cache_megabytes),
                    "VIDEO_LLAVA_RUNTIME_DIR": task.run_directory,
                },
                # Ctrl-C in a terminal reaches the launcher only, which then stops the server in order.
                start_new_session=True,
            )
        process = cls(
            reaper,
            runtime_folder=Path(task.run_directory),
            stop_timeout_seconds=task.stop_timeout_seconds,
        )
        if not process._first_line:
            reaper.wait()
            raise StartError(f"{wheel.server} cannot be executed; the server's log, which has the reason, is {log}")
        return process

    @property
    def pid(self) -> int:
        """Of tritonserver itself."""
        return int(self._first_line)

    def poll(self) -> int | None:
        """None while the server runs, then its exit code; 128 + n when signal n ended it."""
        return self._reaper.poll()

    def wait(self) -> int:
        """Block until the server has ended and its leftovers are removed; its exit code as `poll` has it."""
        return self._reaper.wait()

    def stop(self, *, urgently: bool = False) -> int:
        """End the server in order, by force when it takes too long. Returns its exit code, 0 if all went well.

        `urgently` gives requests in flight no time but that for an error that is on its way. It may follow an
        interrupted call without.
        """
        self._reaper.send_signal(signal.SIGQUIT if urgently else signal.SIGTERM)
        try:
            return self._reaper.wait(timeout=self._stop_timeout_seconds + _CLEAN_UP_SECONDS)
        except subprocess.TimeoutExpired:
            # Never seen. The server gets SIGTERM when its parent dies.
            self._reaper.kill()
            return self._reaper.wait()


def _prepare(wheel: TritonWheel, options: ServerOptions) -> tuple["Task", dict[str, Any]]:
    """Make the run directory; returns the engine's arguments too."""
    # Not before the wheel is found: the reaper's own package is missing where that is, and would be named instead.
    from ._reaper import Task

    name = f"video-llava-{uuid.uuid4().hex[:12]}-"
    run_directory = Path(tempfile.mkdtemp(prefix=name))
    try:
        backends = run_directory / "backends"
        assemble_backends(wheel, backends)
        repository = _make_repository(options, run_directory / "repository")
    except BaseException:
        shutil.rmtree(run_directory)
        raise
    task = Task(
        launcher_pid=os.getpid(),
        command=server_command(wheel, options, repository=repository, backends=backends, shared_memory_prefix=name),
        run_directory=str(run_directory),
        shared_memory_prefix=name,
        stop_timeout_seconds=UNLOAD_SECONDS + _MARGIN_SECONDS,
    )
    return task, _engine_arguments(repository)


def _make_repository(options: ServerOptions, into: Path) -> Path:
    if options.model is None:
        assert options.repository is not None
        if not options.repository.is_dir():
            raise RepositoryError(f"{options.repository} is no folder; name a Triton model repository")
        return options.repository.resolve()
    try:
        assemble(
            options.model,
            into,
            overlay=options.overlay,
            loras=options.loras,
            engine_arguments=options.engine_arguments,
        )
    except ModelFolderError as exc:
        raise RepositoryError(str(exc)) from exc
    return into


def _engine_arguments(repository: Path) -> dict[str, Any]:
    """Return what `model.json` tells vLLM; nothing where it cannot be read, which the model itself will report."""
    try:
        return json.loads((repository / "vicuna" / "1" / "model.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
