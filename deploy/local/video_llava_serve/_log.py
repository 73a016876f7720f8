"""Triton's log, read while it is written: which models are ready, and why one is not."""

import json
import os
import re
import sys
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

# I1123 02:50:08.739385 6327 model_lifecycle.cc:839] "successfully loaded 'good'"
_TRITON_LINE = re.compile(r'^(?P<level>[IWEF])\d{4} [\d:.]+ \d+ \S+\] "?(?P<message>.*?)"?$')
_LOADING = re.compile(r"^loading: (?P<model>.+):\d+$")
_LOADED = re.compile(r"^successfully loaded '(?P<model>.+)'$")
_FAILED = re.compile(r"^failed to load '(?P<model>.+)' version \d+: (?P<cause>.*)$", re.DOTALL)
_UNREADABLE = re.compile(r"^Poll failed for model directory '(?P<model>.+)': (?P<cause>.*)$", re.DOTALL)
# vLLM's processes prefix their own lines; the cause is the first exception that they report.
_ENGINE_ERROR = re.compile(r"^\([\w-]+ pid=\d+\) ERROR .*?\] (?P<cause>[\w.]*(?:Error|Exception)\b: .+)$")
# Its message goes on in indented lines: why each kernel cannot be taken.
_ENGINE_REASON = re.compile(r"^\([\w-]+ pid=\d+\) ERROR .*?\] (?P<reason>\s+\S.*)$")
_POINTS_ELSEWHERE = re.compile(r"root cause|stack trace", re.IGNORECASE)
# Protocol buffers say where a config.pbtxt is wrong, Triton only that it is.
_PROTOBUF_ERROR = re.compile(r"^\[libprotobuf ERROR .*?\] (?P<cause>.+)$")
_UNREADABLE_CONFIG = "failed to read text proto"
# Our models' own word (video_llava_server/triton.py).
_LOADED_ITSELF = re.compile(r"^\[(?P<model>\w+)\] loaded$")
_DEAD_STUB = re.compile(r"Stub process '.*' is not healthy")
# On every machine without a GPU.
_NOISE = "CudaDriverHelper has not been initialized."
_STATUS = re.compile(r"^(?:Internal|Invalid argument|Unknown|Unavailable|Not found|Unsupported): ")
_MAX_CAUSE_CHARACTERS = 600

STANDARD_OUTPUT = Path("-")
"""the path that stands for a `LogPipe`"""


@dataclass(frozen=True)
class Failure:
    """A model that did not load."""

    model: str
    cause: str
    """one line"""


@dataclass
class ServerLog:
    """What a log has said so far; `read` takes in what is new."""

    source: "LogFile | LogPipe"
    loading: set[str] = field(default_factory=set)
    ready: list[str] = field(default_factory=list)
    """in the order in which they became ready"""
    failures: list[Failure] = field(default_factory=list)
    """in the order in which they failed"""
    last_error: str = ""
    """the last that was not about a model; the very first line if it is none of Triton's: refused flags"""
    _loaded_at: dict[str, float] = field(default_factory=dict)
    """when (monotonic) models said themselves that they are loaded"""
    _engine_cause: str = ""
    _cause_goes_on: bool = False
    _protobuf_cause: str = ""
    _has_lines: bool = False
    _rest: bytes = b""

    def read(self) -> None:
        """Take in the whole lines that were written since the last call."""
        whole, end, self._rest = (self._rest + self.source.read()).rpartition(b"\n")
        for line in (whole + end).decode("utf-8", errors="replace").splitlines():
            self._take(line)

    def hanging(self, seconds: float) -> str | None:
        """Name a model that has loaded, which Triton has not noticed for so long."""
        until = time.monotonic() - seconds
        return next((model for model, at in self._loaded_at.items() if model in self.loading and at <= until), None)

    def _take(self, line: str) -> None:
        goes_on, self._cause_goes_on = self._cause_goes_on, False
        if found := _TRITON_LINE.match(line):
            self._take_message(found["level"], _unescape(found["message"]))
        elif found := _LOADED_ITSELF.match(line):
            self._loaded_at[found["model"]] = time.monotonic()
        elif found := _ENGINE_ERROR.match(line):
            self._cause_goes_on = not self._engine_cause
            self._engine_cause = self._engine_cause or _unless_elsewhere(found["cause"])
        elif goes_on and (found := _ENGINE_REASON.match(line)):
            self._cause_goes_on = True
            said = self._engine_cause.rstrip()
            self._engine_cause = f"{said}{'' if said.endswith(':') else ';'} {found['reason'].strip()}"
        elif found := _PROTOBUF_ERROR.match(line):
            self._protobuf_cause = found["cause"]
        elif line.startswith("error: "):
            self.last_error = line.removeprefix("error: ").removeprefix("creating server: ")
        elif line and not self._has_lines:
            self.last_error = shorten(line)
        self._has_lines = True

    def _take_message(self, level: str, message: str) -> None:
        if found := _LOADING.match(message):
            self.loading.add(found["model"])
        elif found := _LOADED.match(message):
            self.loading.discard(found["model"])
            self.ready.append(found["model"])
        elif found := _FAILED.match(message) or _UNREADABLE.match(message):
            self._take_failure(found["model"], found["cause"])
        elif level in "EF" and message != _NOISE:
            self.last_error = shorten(message)

    def _take_failure(self, model: str, cause: str) -> None:
        self.loading.discard(model)
        self.failures.append(Failure(model, shorten(self._deeper(cause))))

    def _deeper(self, cause: str) -> str:
        """The reason behind a message that only points at one."""
        if _POINTS_ELSEWHERE.search(cause) and self._engine_cause:
            return self._engine_cause
        if cause.startswith(_UNREADABLE_CONFIG) and self._protobuf_cause:
            return f"{cause}: {self._protobuf_cause}"
        if _DEAD_STUB.search(cause):
            return "its Python process ended without an exception: it crashed, or was killed because memory ran out"
        return cause


class LogFile:
    """A log in a file. `str` says where it is."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = 0

    def __str__(self) -> str:
        return str(self._path)

    def open(self) -> IO[bytes]:
        """For the processes that write it."""
        return self._path.open("ab")

    def read(self) -> bytes:
        """Return what was written since the last call."""
        with self._path.open("rb") as log:
            log.seek(self._offset)
            text = log.read()
        self._offset += len(text)
        return text

    def close(self) -> None:
        """Its processes have ended: all of it can be read."""


class LogPipe:
    """A log on this process's standard output and in no file, for containers. It remembers the newest part."""

    _MAX_BYTES = 1 << 20

    def __init__(self) -> None:
        self._unread = bytearray()
        self._lock = threading.Lock()
        read_end, write_end = os.pipe()
        self._write_end = os.fdopen(write_end, "wb", buffering=0)
        self._thread = threading.Thread(target=self._copy, args=(read_end,), name="log-pipe", daemon=True)
        self._thread.start()

    def __str__(self) -> str:
        return "on standard output"

    def open(self) -> IO[bytes]:
        """For the processes that write it; once. When the last of them has closed it, the log is at its end."""
        return self._write_end

    def read(self) -> bytes:
        """Return what was written since the last call, a megabyte at most."""
        with self._lock:
            text = bytes(self._unread)
            self._unread.clear()
        return text

    def close(self) -> None:
        """Its processes have ended: wait until all of it can be read."""
        self._write_end.close()
        self._thread.join(timeout=5)

    def _copy(self, read_end: int) -> None:
        with os.fdopen(read_end, "rb", buffering=0) as log:
            while text := log.read(1 << 16):
                with self._lock:
                    self._unread += text
                    del self._unread[: -self._MAX_BYTES]
                # Nobody to read it, a full disk: the server must not wait for that.
                with suppress(OSError):
                    os.write(1, text)


class LogEcho:
    """Copies a growing log to stderr until stopped."""

    _POLL_SECONDS = 0.1

    def __init__(self, path: Path) -> None:
        self._path = path
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._copy, name="log-echo", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Copy what is left and end."""
        self._stopping.set()
        self._thread.join()

    def _copy(self) -> None:
        with self._path.open("r", encoding="utf-8", errors="replace") as log:
            while not self._stopping.wait(self._POLL_SECONDS):
                sys.stderr.write(log.read())
            sys.stderr.write(log.read())


def shorten(cause: str) -> str:
    """The exception of a Python traceback, or Triton's message, on one line of bounded length."""
    text = _STATUS.sub("", cause)
    if "Traceback (most recent call last):" in text:
        text = text.strip().splitlines()[-1]
    # What the stub adds to an exception: "\n\nAt:\n  file(line): function".
    text = " ".join(text.split("\n\nAt:\n", maxsplit=1)[0].split())
    return text if len(text) <= _MAX_CAUSE_CHARACTERS else f"{text[:_MAX_CAUSE_CHARACTERS]} ..."


def _unless_elsewhere(cause: str) -> str:
    return "" if _POINTS_ELSEWHERE.search(cause) else cause


def _unescape(message: str) -> str:
    try:
        return json.loads(f'"{message}"')
    except ValueError:
        return message
