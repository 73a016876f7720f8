"""Input data and a command line for perf_analyzer, Triton's own load generator.

It knows no conversations, no cancels and no fresh pixels: it sends the entries of a file over and over. A cold video is
one that has not come yet, so measure for no more requests than there are entries, against a server that has not seen
them. What it adds is a second opinion, and its split of the server's time by model.
"""

from __future__ import annotations

import base64
import json
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from video_llava_client import ModelLimits, build_prompt

from .media import Pixels
from .plan import Plan, Planner
from .scenario import Scenario

_WITHOUT = ("chat",)


def write_inputs(file: Path, scenario: Scenario, limits: ModelLimits, *, num_entries: int) -> None:
    """Write the first requests of `scenario`, conversations left out, as `--input-data` takes them.

    Frames are base64 of their bytes, with their shape; 8 frames of 224 x 224 pixels take 1.6 MB.
    """
    planner = Planner(scenario.mix, scenario.requests, seed=scenario.seed)
    pixels = Pixels(limits, num_warm=scenario.requests.warm_videos)
    entries: list[dict[str, Any]] = []
    while len(entries) < num_entries:
        plan = planner.next()
        if plan.kind not in _WITHOUT:
            entries.append(_entry(plan, pixels, ignore_eos=scenario.requests.ignore_eos))
    file.write_text(json.dumps({"data": entries}), encoding="utf-8")


def command(
    file: Path, *, url: str, model: str, num_entries: int, rate: float | None, concurrency: int
) -> Sequence[str]:
    """Return the command that sends each entry of `file` once; at a rate of arrivals, or so many at a time."""
    load = ["--concurrency-range", str(concurrency)]
    if rate is not None:
        load = ["--request-rate-range", f"{rate:g}", "--request-distribution", "poisson"]
    return [
        "perf_analyzer",
        *("-m", model),
        *("-u", url),
        *("-i", "grpc"),
        "--async",
        "--streaming",
        *("--input-data", str(file)),
        *load,
        *("--request-count", str(num_entries)),
        *("--stability-percentage", "999"),
        *("--profile-export-file", str(file.with_suffix(".profile.json"))),
    ]


def command_line(arguments: Sequence[str]) -> str:
    """Return a command as a shell reads it."""
    return shlex.join(arguments)


def _entry(plan: Plan, pixels: Pixels, *, ignore_eos: bool) -> dict[str, Any]:
    (turn,) = plan.turns
    sampling = {"max_tokens": turn.max_tokens, "temperature": 0} | ({"ignore_eos": True} if ignore_eos else {})
    is_image, is_video = plan.kind == "image", plan.kind.startswith("video")
    entry: dict[str, Any] = {
        "text_input": [build_prompt(turn.question, num_images=int(is_image), num_videos=int(is_video))],
        "sampling_parameters": [json.dumps(sampling)],
        "stream": [True],
    }
    # Media that are absent are left out: perf_analyzer dies of a tensor without elements (seen with 2.48).
    if is_video:
        clip = pixels.warm_clip(plan.number) if plan.kind == "video_warm" else pixels.cold_clip()
        entry["video_frames"] = _tensor(clip.frames)
    if is_image:
        entry["image_frames"] = _tensor(pixels.cold_image()[np.newaxis])
    return entry


def _tensor(frames: np.ndarray) -> dict[str, Any]:
    return {"content": {"b64": base64.b64encode(frames.tobytes()).decode()}, "shape": list(frames.shape)}
