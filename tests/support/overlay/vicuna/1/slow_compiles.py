"""Stands in for the compiler of constraints: it fails or takes long where the constraint says so."""

import os
import re
import signal
import time

import xgrammar as xgr
from video_llava_server.grammar_worker import compile_constraint


def compile_slowly(compiler: xgr.GrammarCompiler, kind: str, text: str, has_blanks: bool) -> xgr.CompiledGrammar:
    """Compile; beforehand `sleep N` waits so many seconds, `allocate N` takes so many bytes, `die` ends the process."""
    if found := re.search(r"sleep (\d+)", text):
        time.sleep(int(found[1]))
    if found := re.search(r"allocate (\d+)", text):
        bytearray(int(found[1]))
    if "die" in text:
        os.kill(os.getpid(), signal.SIGKILL)
    return compile_constraint(compiler, kind, text, has_blanks)
