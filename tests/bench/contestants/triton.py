"""The server as users start it, asked through its client over gRPC."""

import asyncio
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

from support.export import FREE_PORTS
from support.vicuna_config import vicuna_config
from video_llava_client import AsyncVideoLlava, Clip
from video_llava_serve import LocalServer

from ..checkpoints import Checkpoints
from ..load import QUESTION_TIMEOUT_SECONDS, Mark, run_all
from ..plan import Plan
from ..records import Result, Run
from ..startup import startup_seconds
from ..workloads import Question, frames_of

NAME = "triton"
_START_TIMEOUT_SECONDS = 300.0


def run(checkpoints: Checkpoints, plan: Plan) -> list[Result]:
    """All workloads on one server."""
    return [measure(NAME, "video-llava-serve", checkpoints.model, plan)]


def measure(name: str, setting: str, model: Path, plan: Plan) -> Result:
    """The plan's workloads for `name`, on a server of `model`."""
    started = time.perf_counter()
    with serving(model) as server:
        start_seconds = time.perf_counter() - started
        steps = startup_seconds(server.log_path.read_text(encoding="utf-8", errors="replace"))
        runs = asyncio.run(ask_all(name, server, plan))
    return Result(name, setting, start_seconds, tuple(runs), steps)


@contextmanager
def serving(model: Path, **options: Any) -> Iterator[LocalServer]:
    """A running server of `model`; further `options` are `LocalServer`'s."""
    options = {**FREE_PORTS, "start_timeout_seconds": _START_TIMEOUT_SECONDS, "report": print, **options}
    with (
        tempfile.TemporaryDirectory() as overlay,
        LocalServer(model=model, overlay=_takes_all(Path(overlay)), **options) as server,
    ):
        yield server


def _takes_all(overlay: Path) -> Path:
    """The profile for CPUs would refuse the 15th session: it counts with the real 7B."""
    (overlay / "vicuna").mkdir()
    (overlay / "vicuna/config.pbtxt").write_text(vicuna_config(max_requests=64), encoding="utf-8")
    return overlay


async def ask_all(name: str, server: LocalServer, plan: Plan) -> list[Run]:
    """The plan's workloads for `name`."""
    async with AsyncVideoLlava(server.grpc_url, timeout_seconds=QUESTION_TIMEOUT_SECONDS) as client:

        async def ask(question: Question, num_tokens: int, mark: Mark) -> Mapping[str, float]:
            video = None if question.clip is None else _clip(question.clip)
            options = {"max_tokens": num_tokens, "sampling": {"ignore_eos": True}}
            async with client.stream(question.text, video=video, **options) as stream:
                async for delta in stream:
                    mark(delta.num_output_tokens)
            answer = stream.answer
            counts = {"input_tokens": answer.num_input_tokens, "cached_tokens": answer.num_cached_tokens}
            return {**asdict(answer.stage_seconds), **counts}

        return await run_all(name, ask, plan, pid=server.pid)


@cache
def _clip(number: int) -> Clip:
    """Loaded once for all questions about it, as callers do."""
    frames = frames_of(number)
    return Clip.load(frames, size=frames.shape[1])
