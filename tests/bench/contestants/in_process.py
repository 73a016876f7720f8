"""The server's own parts without Triton: its encoder on ONNX Runtime, its prompt builder, its engine, called from here.

A video's features are kept once made, as the server's feature store does.
"""

import asyncio
import importlib
import os
import tempfile
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from video_llava_client import build_prompt
from video_llava_serve.backends.onnxruntime.onnx_model import OnnxModel
from video_llava_server.features import Features, FeatureStore
from video_llava_server.manifest import encoder_path
from video_llava_server.repository import assemble

from ..checkpoints import Checkpoints
from ..environment import set_engine_environment
from ..load import Mark, run_all
from ..plan import Plan
from ..records import Result
from ..workloads import Question, frames_of

NAME = "in_process"
_FEATURE_BYTES = 4 << 30


class Pipeline:
    """What a request to the server goes through, as calls."""

    def __init__(self, model: Path, make_encoder: Callable[[Path], OnnxModel]) -> None:
        self._store = FeatureStore(_FEATURE_BYTES)
        self._features: dict[int, Features] = {}
        # One thread, as Triton's stubs have.
        self._worker = ThreadPoolExecutor(1)
        # vLLM reads its environment when it is imported: not before `set_engine_environment`.
        self._sampling_params = importlib.import_module("vllm.sampling_params")
        self.engine = _start_engine(model)
        # After the engine, which forks: a child cannot use CUDA if its parent has.
        self._encoder = make_encoder(model / encoder_path("video"))
        prompt = importlib.import_module("video_llava_server.prompt")
        self._prompts = prompt.PromptBuilder(model, dtype=self.engine.dtype, max_model_len=self.engine.max_model_len)
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

    def encode(self, clip: int) -> Features:
        """Features of a clip."""
        if clip not in self._features:
            made = self._encoder.run({"frames": frames_of(clip)[None]}, ["features"])["features"]
            self._features[clip] = Features.open(self._store.put(made[0]))
        return self._features[clip]

    def run_on_engine(self, coroutine: Any) -> Any:
        """Run on the engine's event loop and wait for the result."""
        result: Future[Any] = Future()
        self.engine.call_soon(lambda: asyncio.create_task(_fulfil(coroutine, result)))
        return result.result()


def _start_engine(model: Path) -> Any:
    """With the arguments that a server of `model` starts it with."""
    engine = importlib.import_module("video_llava_server.engine")
    with tempfile.TemporaryDirectory() as folder:
        assemble(model, Path(folder))
        started = engine.Engine(engine.read_engine_arguments(Path(folder, "vicuna", "1", "model.json")), [])
    started.start()
    return started


async def _fulfil(coroutine: Any, result: Future[Any]) -> None:
    try:
        result.set_result(await coroutine)
    except BaseException as exc:  # noqa: BLE001 (handed to the thread that waits)
        result.set_exception(exc)


def run(checkpoints: Checkpoints, plan: Plan) -> list[Result]:
    """All workloads on one engine."""
    set_engine_environment(checkpoints)
    return [measure(NAME, "the server's encoder and engine", checkpoints.model, plan)]


def measure(
    name: str, setting: str, model: Path, plan: Plan, *, make_encoder: Callable[[Path], OnnxModel] = OnnxModel
) -> Result:
    """Start the engine of `model`, run all of the contestant's workloads, stop it."""
    started = time.perf_counter()
    pipeline = Pipeline(model, make_encoder)
    start_seconds = time.perf_counter() - started
    try:
        runs = pipeline.run_on_engine(run_all(name, pipeline.ask, plan, pid=os.getpid()))
    finally:
        pipeline.engine.stop()
    return Result(name, setting, start_seconds, tuple(runs))
