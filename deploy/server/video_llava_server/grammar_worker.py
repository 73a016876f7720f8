"""The process that compiles constraints: it loads xgrammar once, then forks for each compile.

xgrammar's compiler has neither a limit nor a cancel. A fork costs little memory and some milliseconds, can be killed,
and fails alone. Nothing of vLLM is imported here, to keep the process small.
"""

import ctypes
import json
import os
import re
import resource
import signal
import socket
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import xgrammar as xgr

PID_BYTES = 4
OK, NO_MEMORY, TOO_LARGE = "ok", "no memory", "too large"
MAX_GRAMMAR_BYTES = 2**26
"""Of a compiled constraint, as JSON: the engine reads so many in about three seconds, beside its steps."""

_PR_SET_PDEATHSIG = 1
# The engine goes first where cores are few.
_NICENESS, _NUM_THREADS = 10, 2
_OUT_OF_MEMORY_FIRST = "1000"
_SOURCE_LINE = re.compile(r"^\[[\d:]+\] \S+:\d+: ")


@dataclass(frozen=True, kw_only=True)
class CompileSettings:
    """What all compiles have in common."""

    tokenizer_info: str
    """xgrammar's, as JSON"""
    has_blanks: bool
    """whether JSON may have blanks between its parts"""
    max_bytes: int
    """of memory, beside what the process has before it compiles"""


Compile = Callable[[xgr.GrammarCompiler, str, str, bool], xgr.CompiledGrammar]


def compile_constraint(compiler: xgr.GrammarCompiler, kind: str, text: str, has_blanks: bool) -> xgr.CompiledGrammar:
    """Compile as vLLM's XgrammarBackend does. Raises what xgrammar raises."""
    if kind == "json":
        separators = None if has_blanks else (",", ":")
        return compiler.compile_json_schema(text, any_whitespace=has_blanks, separators=separators)
    if kind == "regex":
        return compiler.compile_regex(text)
    if kind == "lark":
        return compiler.compile_lark(text)
    if kind == "grammar":
        return compiler.compile_grammar(text)
    tag = json.loads(text)
    if "structures" not in tag:
        return compiler.compile_structural_tag(text)
    items = [
        xgr.StructuralTagItem(begin=each["begin"], schema=json.dumps(each["schema"]), end=each["end"])
        for each in tag["structures"]
    ]
    return compiler.compile_structural_tag(items, tag["triggers"])


def serve(requests: socket.socket, settings: CompileSettings, compile_: Compile) -> None:
    """Compile until the other end of `requests` is closed.

    A request is one byte with two file descriptors: a file that holds the constraint as JSON `[kind, text]`, which
    the compiled one replaces, and a socket for the id of the process that compiles, then `ok` or why not.
    """
    _end_with_parent()
    os.nice(_NICENESS)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # of a terminal: the server ends this process
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # no child is waited for
    tokenizer_info = xgr.TokenizerInfo.deserialize_json(settings.tokenizer_info)
    while True:
        message, descriptors, _, _ = socket.recv_fds(requests, 1, 2)
        if not message:
            return
        file, answer = descriptors
        if os.fork() == 0:
            _compile_and_exit(file, answer, tokenizer_info, settings, compile_)
        os.close(file)
        os.close(answer)


def _end_with_parent() -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _compile_and_exit(
    file: int, answer: int, tokenizer_info: xgr.TokenizerInfo, settings: CompileSettings, compile_: Compile
) -> None:
    try:
        _end_with_parent()
        os.write(answer, os.getpid().to_bytes(PID_BYTES))
        _limit_memory(settings.max_bytes)
        with open(file, "r+b") as content:
            content.seek(0)
            kind, text = json.loads(content.read())
            compiler = xgr.GrammarCompiler(tokenizer_info, max_threads=_NUM_THREADS, cache_enabled=False)
            grammar = compile_(compiler, kind, text, settings.has_blanks)
            _check_first_token(grammar, tokenizer_info)
            compiled = grammar.serialize_json().encode()
            content.seek(0)
            content.truncate()
            content.write(compiled[:MAX_GRAMMAR_BYTES])
        os.write(answer, (OK if len(compiled) <= MAX_GRAMMAR_BYTES else TOO_LARGE).encode())
    except MemoryError:
        os.write(answer, NO_MEMORY.encode())
    except Exception as exc:  # noqa: BLE001 (xgrammar's errors have no class in common)
        what = NO_MEMORY if "bad_alloc" in str(exc) else _SOURCE_LINE.sub("", str(exc))
        os.write(answer, what[:1000].encode(errors="replace"))
    finally:
        os._exit(0)


def _check_first_token(grammar: xgr.CompiledGrammar, tokenizer_info: xgr.TokenizerInfo) -> None:
    bitmask = xgr.allocate_token_bitmask(1, tokenizer_info.vocab_size)
    xgr.GrammarMatcher(grammar).fill_next_token_bitmask(bitmask)
    if not bitmask.any():
        raise ValueError("it allows no first token")


def _limit_memory(num_bytes: int) -> None:
    """Let this process allocate so much more, and be the first that Linux ends where memory runs out."""
    (in_use,) = re.findall(r"VmData:\s+(\d+) kB", Path("/proc/self/status").read_text())
    most = int(in_use) * 1024 + num_bytes
    resource.setrlimit(resource.RLIMIT_DATA, (most, most))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    Path("/proc/self/oom_score_adj").write_text(_OUT_OF_MEMORY_FIRST)
