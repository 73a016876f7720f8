"""Single stages by themselves: the encoders, and the way of a video's features from the encoder into the engine."""

import asyncio
import importlib
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from support.export import FREE_PORTS
from video_llava_client import AsyncVideoLlava, Clip
from video_llava_serve import LocalServer
from video_llava_serve.backends.onnxruntime.onnx_model import OnnxModel
from video_llava_server.features import Features, FeatureStore
from video_llava_server.manifest import encoder_path

from .checkpoints import Checkpoints
from .environment import set_engine_environment
from .plan import Plan
from .shapes import VIDEO_TOKENS, WIDE
from .workloads import frames_of

_NUM_TRIES = 5
_FIRST_CLIP = 10_000


def run(checkpoints: Checkpoints, plan: Plan) -> dict[str, float]:
    """Seconds, each the best of a few."""
    del plan
    set_engine_environment(checkpoints)
    seconds = {
        "encoder": _encoder_seconds(checkpoints.model),
        "encoder_wide": _encoder_seconds(checkpoints.wide_model),
        "encoder_wide_int8": _encoder_seconds(checkpoints.wide_int8_model),
    }
    return seconds | _handover(checkpoints)


def _encoder_seconds(model: Path) -> float:
    encoder = OnnxModel(model / encoder_path("video"))
    frames = frames_of(0)[None]
    return _best_seconds(lambda: encoder.run({"frames": frames}, ["features"]))


def _handover(checkpoints: Checkpoints) -> dict[str, float]:
    """Of features of the 7B's size: float16 [2056, 4096], 16.8 MB.

    On a real server first: the time from intake to the engine for a known video is that of the
    way without the encoder. Then the parts of it that are code of ours or vLLM's, in this process.
    """
    features = np.random.default_rng(0).standard_normal((VIDEO_TOKENS, WIDE.width), np.float32)
    features = features.astype(np.float16)
    store = FeatureStore(1 << 30)
    opened = Features.open(store.put(features))
    prompts = importlib.import_module("video_llava_server.prompt")
    builder = prompts.PromptBuilder(checkpoints.wide_model, dtype=torch.bfloat16, max_model_len=4096)
    prompt = builder.build("USER: <video>\nWhat? ASSISTANT:", video_features=opened, image_features=None)
    target = np.empty_like(features)
    return {
        **asyncio.run(_on_server(checkpoints.wide_model)),
        "handover_copy": _best_seconds(lambda: np.copyto(target, features)),
        "handover_store": _best_seconds(lambda: store.put(features)),
        "handover_read": _best_seconds(lambda: prompt.embeddings[:]),
    }


async def _on_server(model: Path) -> dict[str, float]:
    with LocalServer(model=model, **FREE_PORTS, report=print) as server:
        async with AsyncVideoLlava(server.grpc_url) as client:
            cold, warm = [], []
            for clip in range(_FIRST_CLIP, _FIRST_CLIP + _NUM_TRIES):
                video = Clip.load(frames_of(clip), size=frames_of(clip).shape[1])
                answers = [await client.ask("What?", video=video, max_tokens=1) for _ in range(2)]
                cold.append(answers[0].stage_seconds)
                warm.append(answers[1].stage_seconds)
    return {
        "handover_cold": min(stages.encode for stages in cold),
        "handover_warm": min(stages.encode for stages in warm),
        "handover_engine_queue": min(stages.queue for stages in cold),
        "handover_first_token": min(stages.first_token or 0.0 for stages in warm),
    }


def _best_seconds(call: Callable[[], object]) -> float:
    seconds = []
    for _ in range(_NUM_TRIES):
        started = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - started)
    return min(seconds)
