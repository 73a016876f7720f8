"""Waiting until every model is ready, with progress; the reason when one is not."""

import http.client
import signal
import time
from collections.abc import Callable
from contextlib import closing

from ._errors import CrashError, StartError
from ._log import ServerLog
from ._process import ServerProcess

_POLL_SECONDS = 0.1
# Triton 24.10 takes a loading model's process for dead if it gets no CPU for one second. It frees the shared memory
# that the process still reads, which may crash both, and waits for ever for it to end.
_HANGS_AFTER_SECONDS = 10.0
# As exit codes: a crash of the server itself, whatever the models are.
_CRASHES = {128 + number for number in (signal.SIGABRT, signal.SIGBUS, signal.SIGSEGV)}


def wait_ready(
    process: ServerProcess,
    log: ServerLog,
    *,
    http_address: str,
    http_port: int,
    timeout_seconds: float,
    report: Callable[[str], None],
) -> None:
    """Block until the server answers that it is ready; one `report` for each model that becomes so.

    Raises `StartError` when the server ends or the time is over.
    """
    started = time.monotonic()
    # Triton opens its ports after the last model; until then only its log tells how far it is.
    while not answers_ready(http_address, http_port):
        code = process.poll()
        if code is not None:
            log.source.close()
        seconds = time.monotonic() - started
        _report_ready(log, seconds, report)
        if code is not None:
            raise (CrashError if code in _CRASHES else StartError)(_explain_end(log, code))
        if model := log.hanging(_HANGS_AFTER_SECONDS):
            raise CrashError(
                f"tritonserver hangs: the model '{model}' has loaded, and it has not noticed for "
                f"{_HANGS_AFTER_SECONDS:g} s\nStart again; the server's whole log is {log.source}"
            )
        if seconds > timeout_seconds:
            raise StartError(_explain_timeout(log, timeout_seconds))
        time.sleep(_POLL_SECONDS)
    _report_ready(log, time.monotonic() - started, report)


def _report_ready(log: ServerLog, seconds: float, report: Callable[[str], None]) -> None:
    num_known = len(log.ready)
    log.read()
    for model in log.ready[num_known:]:
        report(f"{seconds:6.1f} s  {model} is ready{_still_loading(log)}")


def answers_ready(address: str, port: int) -> bool:
    """Whether a server there says that all of its models are ready."""
    with closing(http.client.HTTPConnection(address, port, timeout=5)) as connection:
        try:
            connection.request("GET", "/v2/health/ready")
            return connection.getresponse().status == http.client.OK
        except (OSError, http.client.HTTPException):
            return False


def describe_end(code: int) -> str:
    """Say an exit code in words; 128 + n stands for signal n, -n for signal n to the server's reaper."""
    if code < 0:
        return f"its reaper was ended by {signal.Signals(-code).name}"
    if code <= 128:
        return f"exit code {code}"
    name = signal.Signals(code - 128).name
    return f"{name}, out of memory?" if name == "SIGKILL" else name


def _explain_end(log: ServerLog, code: int) -> str:
    if log.failures:
        failure = log.failures[0]
        what = f"the model '{failure.model}' does not load: {failure.cause}"
    elif log.loading:
        what = f"tritonserver ended ({describe_end(code)}) while it loaded {_names(log.loading)}"
    else:
        what = f"tritonserver does not start ({describe_end(code)}): {log.last_error or 'it gave no reason'}"
    return f"{what}\nRemove the cause and start again; the server's whole log is {log.source}"


def _explain_timeout(log: ServerLog, timeout_seconds: float) -> str:
    return (
        f"not ready after {timeout_seconds:g} s, still loading: {_names(log.loading)}\n"
        f"Give a larger --start-timeout-seconds if the machine is slow; the server's whole log is {log.source}"
    )


def _still_loading(log: ServerLog) -> str:
    return f", loading {_names(log.loading)}" if log.loading else ""


def _names(models: set[str]) -> str:
    return ", ".join(sorted(models)) or "nothing"
