"""The server's own parts without Triton: its encoder on ONNX Runtime, its prompt builder, its engine, called from here.

A video's features are kept once made, as the server's response cache does.
"""

import asyncio
import importlib
import os
import sys
import time
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from video_llava_client import build_prompt
from video_llava_serve.backends.onnxruntime.onnx_model import OnnxModel, SessionSettings

from ..checkpoints import Checkpoints
from ..environment import set_engine_environment
from ..load import Mark, run_load
from ..plan import Plan
from ..records import Result, Run
from ..workloads import Question, Workbook, frames_of

NAME = "in_process"


class Pipeline:
    """What a request to the server goes through, as calls."""

    def __init__(self, repository: Path) -> None:
        version = repository / "vicuna" / "1"
        vicuna = _load_models_code("vicuna", version)
        graph = repository / "video_encoder" / "1" / "model.onnx"
        self._encoder = OnnxModel(graph, SessionSettings())
        self._features: dict[int, np.ndarray] = {}
        # One thread, as Triton's stubs have.
        self._worker = ThreadPoolExecutor(1)
        self._sampling_params = importlib.import_module("vllm.sampling_params")
        self.engine: Any = vicuna["engine"].Engine(vicuna["engine"].read_engine_arguments(version), [])
        self.engine.start()
        torch.set_num_threads(1)  # as vicuna/1/adapter.py
        self._prompts = vicuna["prompt"].PromptBuilder(
            version / "weights",
            vicuna["manifest"].read_manifest(repository),
            dtype=self.engine.dtype,
            max_model_len=self.engine.max_model_len,
        )
        self._num_asked = 0

    async def ask(self, question: Question, num_tokens: int, mark: Mark) -> Mapping[str, float]:
        """On the engine's event loop."""
        started = time.perf_counter()
        prompt = await asyncio.get_running_loop().run_in_executor(self._worker, self._prepare, question)
        encode_seconds = time.perf_counter() - started
        params = self._sampling_params
        sampling = params.SamplingParams(
            temperature=0, max_tokens=num_tokens, ignore_eos=True, output_kind=params.RequestOutputKind.DELTA
        )
        self._num_asked += 1
        times: Any = None
        async for output in self.engine.generate(prompt, sampling, str(self._num_asked)):
            mark(len(output.outputs[0].token_ids))
            times = output.metrics
        return {
            "input_tokens": len(prompt.token_ids),
            "encode": encode_seconds,
            "queue": times.scheduled_ts - times.queued_ts,
            "prefill": times.first_token_ts - times.scheduled_ts,
        }

    def _prepare(self, question: Question) -> Any:
        features = None if question.clip is None else self.encode(question.clip)
        text = build_prompt(question.text, num_videos=int(question.clip is not None))
        return self._prompts.build(text, video_features=features, image_features=None)

    def encode(self, clip: int) -> np.ndarray:
        """Features of a clip, float32 [positions, width]."""
        if clip not in self._features:
            self._features[clip] = self._encoder.run({"frames": frames_of(clip)[None]}, ["features"])["features"][0]
        return self._features[clip]

    def run_on_engine(self, coroutine: Any) -> Any:
        """Run on the engine's event loop and wait for the result."""
        result: Future[Any] = Future()
        self.engine.call_soon(lambda: asyncio.create_task(_fulfil(coroutine, result)))
        return result.result()


async def _fulfil(coroutine: Any, result: Future[Any]) -> None:
    try:
        result.set_result(await coroutine)
    except BaseException as exc:  # noqa: BLE001 (handed to the thread that waits)
        result.set_exception(exc)


def _load_models_code(package: str, folder: Path) -> dict[str, ModuleType]:
    """Import a model's modules as Triton's stub does: its version folder is a package."""
    module = ModuleType(package)
    module.__path__ = [str(folder)]
    sys.modules[package] = module
    # The engine's processes, too, find what is in it (`worker_extension_cls`).
    sys.path.append(str(folder))
    return {name: importlib.import_module(f"{package}.{name}") for name in ("engine", "prompt", "manifest")}


def run(checkpoints: Checkpoints, plan: Plan) -> list[Result]:
    """All workloads on one engine."""
    set_engine_environment(checkpoints)
    return [measure(NAME, "the server's encoder and engine", checkpoints.repository, plan)]


def measure(name: str, setting: str, repository: Path, plan: Plan) -> Result:
    """Start the engine of `repository`, run all of the contestant's workloads, stop it."""
    started = time.perf_counter()
    pipeline = Pipeline(repository)
    start_seconds = time.perf_counter() - started
    try:
        runs = pipeline.run_on_engine(_run_all(name, pipeline, plan))
    finally:
        pipeline.engine.stop()
    return Result(name, setting, start_seconds, tuple(runs))


async def _run_all(name: str, pipeline: Pipeline, plan: Plan) -> list[Run]:
    book = Workbook(plan.num_tokens)
    await run_load(name, book.make(plan.warm_up), pipeline.ask, pid=os.getpid())
    return [await run_load(name, book.make(size), pipeline.ask, pid=os.getpid()) for size in plan.sizes_of(name)]
