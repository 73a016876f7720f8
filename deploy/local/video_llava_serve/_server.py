"""One local server from start to stop, for tests, the demo and the command."""

import os
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from video_llava_server.drain import drain

from ._errors import CrashError, InstallationError, RepositoryError, ServerDiedError
from ._log import STANDARD_OUTPUT, LogEcho, LogFile, LogPipe, ServerLog
from ._options import ServerOptions
from ._ports import choose_ports
from ._process import ServerProcess
from ._processes import NeededProcess, find_needed
from ._ready import describe_end, wait_ready

_POLL_SECONDS = 0.2
_MAX_STARTS = 4
_ANY_ADDRESS = {"0.0.0.0": "127.0.0.1", "::": "::1"}


def _silent(_line: str) -> None:
    """Drop the line."""


class LocalServer:
    """A tritonserver that runs inside a `with` block: ready on entry, gone after it.

    | | |
    |---|---|
    | `LocalServer(model=DIR, http_port=0, grpc_port=0, metrics_port=0)` | on three free ports |
    | `LocalServer(model=DIR, log_path=FILE)` | keeps the server's log |
    | `LocalServer(model=DIR, environment={"VLLM_CPU_KVCACHE_SPACE": "1"})` | variables over this process's |
    | `LocalServer(model=DIR, report=print)` | progress, line by line |
    | `LocalServer(model=DIR, tls_certificate=FILE, tls_key=FILE, tls_client_ca=FILE)` | mutual TLS |

    The other options are those of `ServerOptions`. Entering raises `OptionError`, `RepositoryError`, `PortError`
    and `InstallationError` before anything runs, and `StartError` when a model does not load; nothing is left then
    but the log that the error names.
    """

    def __init__(
        self,
        *,
        log_path: Path | None = None,
        environment: Mapping[str, str] | None = None,
        report: Callable[[str], None] = _silent,
        show_log: bool = False,
        **options: Any,
    ) -> None:
        self._options = ServerOptions(**options)
        self._log_path = log_path
        self._keep_log = log_path is not None
        self._environment = {**os.environ, **(environment or {})}
        self._report = report
        self._show_log = show_log
        self._has_run = False
        self._process: ServerProcess | None = None
        self._needed: tuple[NeededProcess, ...] = ()
        self._log: ServerLog | None = None
        self._echo: LogEcho | None = None
        self.stopped_cleanly = False
        """after the block: whether the server ended in time and by its own means"""

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def http_url(self) -> str:
        """`host:port`, as Triton's HTTP client takes it."""
        return _url(self._options.http_address, self._options.http_port)

    @property
    def grpc_url(self) -> str:
        """`host:port`, as Triton's gRPC client takes it."""
        return _url(self._options.grpc_address, self._options.grpc_port)

    @property
    def metrics_url(self) -> str:
        """Address of the page for Prometheus."""
        return f"http://{_url(self._options.metrics_address, self._options.metrics_port)}/metrics"

    @property
    def pid(self) -> int:
        """Of tritonserver itself, while it runs."""
        return self._running().pid

    @property
    def log_path(self) -> Path:
        """What the server and its models print. A temporary file unless named: removed after a clean stop. `-` is
        standard output."""
        if self._log_path is None:
            raise RuntimeError("the server has not been started")
        return self._log_path

    def start(self) -> None:
        """Start and block until every model is ready; raises what entering the block raises.

        A server that crashes or hangs is started again: Triton 24.10 does while models load if the machine stands
        still for a second (see `_ready`).
        """
        for _ in range(_MAX_STARTS - 1):
            try:
                return self._start()
            except CrashError as exc:
                self._report(f"{exc}\nstarting it again")
        return self._start()

    def _start(self) -> None:
        self._choose_ports()
        self._log = log = ServerLog(self._open_log())
        started = time.monotonic()
        try:
            self._process = ServerProcess.launch(self._options, log=log.source, environment=self._environment)
            self._wait_ready(self._process, log)
            self._needed = find_needed(self._process.pid)
            # Said inside the try: a signal may follow at once, and must stop the server.
            seconds = time.monotonic() - started
            self._report(
                f"ready after {seconds:.1f} s: gRPC {self.grpc_url}, HTTP {self.http_url}, metrics {self.metrics_url}"
            )
        except (InstallationError, RepositoryError):
            self._close_log()
            raise
        except BaseException as exc:
            self._keep_log = True
            self.stop(urgently=isinstance(exc, CrashError))
            raise

    def wait(self) -> None:
        """Block while the server runs. Raises `ServerDiedError` with the reason when it, or one of its models or
        the engine, has ended; all of it is stopped then and may be started again."""
        while not (end := self._describe_end()):
            time.sleep(_POLL_SECONDS)
        self._keep_log = True
        self.stop(urgently=True)
        assert self._log is not None
        self._log.read()
        reason = f": {self._log.last_error}" if self._log.last_error else ""
        raise ServerDiedError(f"{end}{reason}\nIts whole log is {self._log.source}")

    def stop(self, *, urgently: bool = False) -> None:
        """Drain the server, then end everything; harmless when repeated.

        Nothing new is taken from then on, and requests in flight have `exit_timeout_seconds` to end. `urgently` waits
        for none of them: for a server that cannot answer any more. A KeyboardInterrupt makes it urgent and passes on.
        """
        if self._process is None:
            return
        try:
            if not urgently:
                self._drain(self._process)
            self._end(self._process, urgently=urgently)
        except KeyboardInterrupt:
            self._report("stopping at once")
            self._end(self._process, urgently=True)
            raise

    def _end(self, process: ServerProcess, *, urgently: bool) -> None:
        self.stopped_cleanly = process.stop(urgently=urgently) == 0
        self._keep_log |= not self.stopped_cleanly
        self._process = None
        self._needed = ()
        self._close_log()

    def _drain(self, process: ServerProcess) -> None:
        # A server that is not ready, or has a dead process, has nothing to finish.
        if self._needed and not self._describe_end():
            timeout_seconds = self._options.exit_timeout_seconds
            if not drain(process.runtime_folder, timeout_seconds=timeout_seconds):
                self._report(f"requests still ran after {timeout_seconds} s and were ended: see --exit-timeout-seconds")

    def _describe_end(self) -> str:
        """What has ended, if anything has."""
        dead = next((process for process in self._needed if process.is_dead), None)
        if dead is None:
            return ""
        # The server first: its models' processes end with it.
        is_server = dead is self._needed[0]
        return f"tritonserver ended by itself ({describe_end(self._running().wait())})" if is_server else dead.died

    def _running(self) -> ServerProcess:
        if self._process is None:
            raise RuntimeError("the server is not running")
        return self._process

    def _choose_ports(self) -> None:
        options = self._options
        http_port, grpc_port, metrics_port = choose_ports(
            (
                (options.http_address, options.http_port),
                (options.grpc_address, options.grpc_port),
                (options.metrics_address, options.metrics_port),
            )
        )
        self._options = replace(options, http_port=http_port, grpc_port=grpc_port, metrics_port=metrics_port)

    def _open_log(self) -> LogFile | LogPipe:
        if self._log_path == STANDARD_OUTPUT:
            return LogPipe()
        if self._log_path is None:
            handle, name = tempfile.mkstemp(prefix="video-llava-serve-", suffix=".log")
            os.close(handle)
            self._log_path = Path(name)
        self._log_path = self._log_path.resolve()
        if self._has_run:
            # Started again: what the run before said is still wanted.
            self._log_path.replace(f"{self._log_path}.1")
        self._has_run = True
        self._log_path.write_bytes(b"")
        if self._show_log:
            self._echo = LogEcho(self._log_path)
        return LogFile(self._log_path)

    def _close_log(self) -> None:
        if self._log is not None:
            self._log.source.close()
        if self._echo is not None:
            self._echo.stop()
        if not self._keep_log:
            self.log_path.unlink(missing_ok=True)

    def _wait_ready(self, process: ServerProcess, log: ServerLog) -> None:
        wait_ready(
            process,
            log,
            http_address=_reachable(self._options.http_address),
            http_port=self._options.http_port,
            timeout_seconds=self._options.start_timeout_seconds,
            report=self._report,
        )


def _reachable(address: str) -> str:
    return _ANY_ADDRESS.get(address, address)


def _url(address: str, port: int) -> str:
    host = _reachable(address)
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
