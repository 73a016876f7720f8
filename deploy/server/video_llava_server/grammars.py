"""Constraints (`structured_outputs`) are compiled before the engine gets them, each in a process of its own.

vLLM compiles in threads of the engine, which have no limit and go on after the caller has gone, while the constraints
of others wait. Here a compile has limits, and ends with its last caller. What is compiled goes to the engine as a file
in memory (engine_grammars.py), and is kept for the next who asks for the same.
"""

import asyncio
import copy
import hashlib
import itertools
import json
import multiprocessing
import os
import signal
import socket
import threading
from collections.abc import AsyncIterator, Coroutine, Mapping
from concurrent.futures import Future
from contextlib import asynccontextmanager, closing, suppress
from dataclasses import dataclass, field, fields
from typing import Any

import xgrammar as xgr
from vllm.exceptions import VLLMClientError
from vllm.sampling_params import SamplingParams, StructuredOutputsParams, check_json_nesting
from vllm.v1.structured_output.backend_types import StructuredOutputOptions
from vllm.v1.structured_output.backend_xgrammar import has_xgrammar_unsupported_json_features
from vllm.v1.structured_output.request import get_structured_output_key
from vllm.v1.structured_output.utils import choice_as_grammar, grammar_is_likely_lark

from .admission import MAX_COMPILES, positive
from .engine_grammars import reference
from .errors import Internal, InvalidArgument, Unavailable
from .grammar_worker import (
    MAX_GRAMMAR_BYTES,
    NO_MEMORY,
    OK,
    PID_BYTES,
    TOO_LARGE,
    CompileSettings,
    compile_constraint,
    serve,
)

PATIENCE_SECONDS = 0.5
"""If no compile ends for so long, the longest of them is stopped for the next one."""
# Of compiled constraints: those that are kept though no request needs them, and all.
_MAX_IDLE_FILES, _MAX_IDLE_BYTES, _MAX_BYTES = 64, 2**27, 2**29
# For the worker to load xgrammar, and to end.
_START_SECONDS, _STOP_SECONDS = 60.0, 10.0
_WHERE = "sampling_parameters: structured_outputs"


@dataclass(frozen=True, kw_only=True)
class CompileLimits:
    """Ceilings for compiling one constraint."""

    max_compile_seconds: int = 10
    max_compile_bytes: int = 2**29

    @classmethod
    def from_config(cls, config: Mapping[str, Mapping[str, str]]) -> "CompileLimits":
        """Read the `parameters` of config.pbtxt as Triton hands them over. Raises ValueError, naming the parameter."""
        names = [each.name for each in fields(cls) if each.name in config]
        return cls(**{name: positive(name, config[name].get("string_value", "")) for name in names})


@dataclass(frozen=True, kw_only=True)
class _File:
    """A file in memory: it goes with this process."""

    descriptor: int = field(default_factory=lambda: os.memfd_create("grammar"))
    serial: int = field(default_factory=itertools.count().__next__)
    """tells it from an earlier file with the same descriptor"""

    @property
    def path(self) -> str:
        return f"{self.serial} /proc/{os.getpid()}/fd/{self.descriptor}"

    @property
    def num_bytes(self) -> int:
        return os.fstat(self.descriptor).st_size

    def close(self) -> None:
        os.close(self.descriptor)


@dataclass(eq=False)
class _Grammar:
    """A constraint that is compiled or has been, and how many requests need it."""

    task: asyncio.Task[_File]
    num_users: int = 0

    @property
    def file(self) -> _File | None:
        """None: there is none yet, or it failed."""
        task = self.task
        return task.result() if task.done() and not task.cancelled() and task.exception() is None else None


class Grammars:
    """Compiles constraints, each once for all who wait for it. After `start` all is on one event loop."""

    def __init__(self, limits: CompileLimits) -> None:
        self._limits = limits
        self._grammars: dict[bytes, _Grammar] = {}
        """by what they were compiled from; the last used is last"""
        self._running: dict[asyncio.Task[Any], None] = {}
        """in the order in which they started"""
        self._next = asyncio.Lock()
        self._worker: Future[_Worker] = Future()

    def start(self, tokenizer: Any, vocab_size: int, *, has_blanks: bool) -> None:
        """Start the worker. It loads for some seconds; constraints wait meanwhile, and nothing else does."""
        arguments = tokenizer, vocab_size, has_blanks
        threading.Thread(target=self._start, args=arguments, name="grammars", daemon=True).start()

    def _start(self, tokenizer: Any, vocab_size: int, has_blanks: bool) -> None:
        info = xgr.TokenizerInfo.from_huggingface(tokenizer, vocab_size=vocab_size).serialize_json()
        max_bytes = self._limits.max_compile_bytes
        settings = CompileSettings(tokenizer_info=info, has_blanks=has_blanks, max_bytes=max_bytes)
        self._worker.set_result(_Worker(settings))
        # Linux ends the worker (PR_SET_PDEATHSIG) with the thread that started it.
        threading.Event().wait()

    async def _started(self) -> "_Worker":
        try:
            # Shielded: a caller who leaves does not cancel it for the others.
            return await asyncio.wait_for(asyncio.shield(asyncio.wrap_future(self._worker)), _START_SECONDS)
        except TimeoutError as exc:
            raise Internal("the process that compiles constraints does not start: try again") from exc

    def stop(self) -> None:
        """End the worker and what it compiles."""
        if self._worker.done():
            self._worker.result().stop()

    @asynccontextmanager
    async def compiled(self, sampling: SamplingParams) -> AsyncIterator[SamplingParams]:
        """Yield what the engine takes in the place of `sampling`, until the block ends.

        Raises InvalidArgument, Unavailable or Internal.
        """
        constraint = sampling.structured_outputs
        if constraint is None:
            yield sampling
            return
        job = json.dumps(_job(constraint)).encode()
        key = hashlib.sha256(job).digest()
        grammar = self._grammars.pop(key, None) or _Grammar(asyncio.create_task(self._compile(job)))
        self._grammars[key] = grammar
        grammar.num_users += 1
        try:
            # The task belongs to all its users: none of them cancels it by leaving.
            await asyncio.wait([grammar.task])
            yield _with_grammar(sampling, grammar.task)
        finally:
            grammar.num_users -= 1
            self._tidy()

    def _tidy(self) -> None:
        """Stop or forget what nobody needs, but keep the files that were used last."""
        num_files = num_bytes = 0
        for key, grammar in reversed(list(self._grammars.items())):
            if grammar.num_users:
                continue
            if file := grammar.file:
                num_files += 1
                num_bytes += file.num_bytes
                if num_files <= _MAX_IDLE_FILES and num_bytes <= _MAX_IDLE_BYTES:
                    continue
                file.close()
            grammar.task.cancel()
            del self._grammars[key]

    async def _compile(self, job: bytes) -> _File:
        worker = await self._started()
        file = _File()
        try:
            os.write(file.descriptor, job)
            async with self._place(worker):
                await worker.compile(file.descriptor, self._limits)
            self._check_room(file)
        except BaseException:
            file.close()
            raise
        return file

    def _check_room(self, new: _File) -> None:
        files = [new, *(grammar.file for grammar in self._grammars.values() if grammar.file)]
        if sum(file.num_bytes for file in files) > _MAX_BYTES:
            raise Unavailable(
                f"the constraints of all requests have more than {_MAX_BYTES:,} bytes: try again", reason="full"
            )

    @asynccontextmanager
    async def _place(self, worker: "_Worker") -> AsyncIterator[None]:
        """Wait for a place among those that run: in order, and not for those that take long."""
        task = asyncio.current_task()
        assert task
        async with self._next:
            while len(self._running) >= MAX_COMPILES:
                ended, _ = await asyncio.wait(
                    list(self._running), timeout=PATIENCE_SECONDS, return_when=asyncio.FIRST_COMPLETED
                )
                if not ended and worker.is_loaded:
                    next(iter(self._running)).cancel()
            self._running[task] = None
        try:
            yield
        finally:
            del self._running[task]


def _job(constraint: StructuredOutputsParams) -> tuple[str, str]:
    """Return what to compile, as `compile_constraint` takes it. Checks what vLLM checks, but for the grammar itself."""
    try:
        check_json_nesting(constraint.json)
        check_json_nesting(constraint.structural_tag, structural_tag=True)
        if constraint.choice is not None:
            return "grammar", choice_as_grammar(constraint.choice)
        if constraint.json_object:
            return "json", '{"type": "object"}'
        kind, text = get_structured_output_key(constraint)
        if constraint.json is not None and has_xgrammar_unsupported_json_features(json.loads(text)):
            raise InvalidArgument(f"{_WHERE} has a JSON schema of which the grammar would ignore a part")
    except (VLLMClientError, ValueError, RecursionError) as exc:
        raise InvalidArgument(f"{_WHERE} is not valid: {exc}") from exc
    is_lark = kind is StructuredOutputOptions.GRAMMAR and grammar_is_likely_lark(text)
    return "lark" if is_lark else kind.name.lower(), text


def _with_grammar(sampling: SamplingParams, task: asyncio.Task[_File]) -> SamplingParams:
    if task.cancelled():
        raise Unavailable(
            "too many constraints are compiled at once, and this one takes long: try again", reason="full"
        )
    made = copy.copy(sampling)
    made.structured_outputs = StructuredOutputsParams(grammar=reference(task.result().path))
    return made


class _Worker:
    """The process that compiles; a new one takes the place of one that has died."""

    def __init__(self, settings: CompileSettings) -> None:
        self._settings = settings
        self._start()

    def _start(self) -> None:
        self.is_loaded = False
        self._requests, theirs = socket.socketpair()
        with theirs:
            self._process = multiprocessing.get_context("spawn").Process(
                target=serve, args=(theirs, self._settings, compile_constraint), name="grammars", daemon=True
            )
            self._process.start()

    def stop(self) -> None:
        self._requests.close()
        self._process.kill()
        self._process.join(timeout=_STOP_SECONDS)

    async def compile(self, file: int, limits: CompileLimits) -> None:
        """Compile what is in the file into it. Cancelling ends the process that compiles."""
        reader, writer = await asyncio.open_connection(sock=self._send(file))
        with closing(writer):
            pid = int.from_bytes(await _read(reader.readexactly(PID_BYTES)))
            self.is_loaded = True
            try:
                async with asyncio.timeout(limits.max_compile_seconds):
                    answer = await reader.read()
            except BaseException as exc:
                with suppress(ProcessLookupError):  # it has ended by itself
                    os.kill(pid, signal.SIGKILL)
                if isinstance(exc, TimeoutError):
                    raise _refusal("time", f"max_compile_seconds is {limits.max_compile_seconds}") from exc
                raise
        _check(answer.decode(), limits)

    def _send(self, file: int) -> socket.socket:
        """Ask the worker; return the socket of the answer."""
        answer, theirs = socket.socketpair()
        with theirs:
            try:
                socket.send_fds(self._requests, [b"c"], [file, theirs.fileno()])
            except OSError:
                self.stop()
                self._start()
                socket.send_fds(self._requests, [b"c"], [file, theirs.fileno()])
        return answer


async def _read(reading: Coroutine[Any, Any, bytes]) -> bytes:
    try:
        return await asyncio.wait_for(reading, _START_SECONDS)
    except (TimeoutError, asyncio.IncompleteReadError) as exc:
        raise Internal("the process that compiles constraints has ended or does not start: try again") from exc


def _check(answer: str, limits: CompileLimits) -> None:
    """Raise why nothing was compiled."""
    if answer == OK:
        return
    if not answer:
        raise Internal("the process that compiled structured_outputs ended without a result: try again, or change it")
    if answer == NO_MEMORY:
        raise _refusal("memory", f"max_compile_bytes is {limits.max_compile_bytes:,}")
    if answer == TOO_LARGE:
        raise _refusal("room", f"compiled it may have {MAX_GRAMMAR_BYTES:,} bytes")
    raise InvalidArgument(f"{_WHERE} cannot be compiled: {answer.strip()}")


def _refusal(what: str, limit: str) -> InvalidArgument:
    return InvalidArgument(
        f"{_WHERE} needs too much {what} to compile, {limit}: make it smaller, with fewer branches, values or "
        "properties, or lower maxLength, maxItems and repetitions"
    )
