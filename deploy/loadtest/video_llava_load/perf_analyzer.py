"""Input data and a command line for perf_analyzer, Triton's own load generator.

It sends the entries of a file over and over, without conversations and cancels. A cold video is cold once: ask for no
more requests than there are entries, of a server that has not seen them.
"""

from __future__ import annotations

import base64
import json
import shlex
from pathlib import Path
from typing import Any

import numpy as np
from video_llava_client import ModelLimits, build_prompt

from .media import Pixels
from .plan import Plan, Planner
from .scenario import Scenario, ScenarioError


def write_inputs(file: Path, scenario: Scenario, limits: ModelLimits, *, num_entries: int) -> None:
    """Write the first requests of `scenario`, without conversations, in the form of `--input-data`.

    Frames are base64 with their shape: 1.6 MB for 8 frames of 224 x 224 pixels.

    Raises:
        ScenarioError: It has only conversations.
    """
    requests, mix = scenario.requests, scenario.mix.model_copy(update={"chat": 0.0})
    if not any(mix.weights):
        raise ScenarioError(
            f"{scenario.name} has only conversations, which perf_analyzer cannot hold: add to its [mix]"
        )
    planner = Planner(mix, requests, seed=scenario.seed)
    pixels = Pixels(limits, num_warm=requests.warm_videos)
    system = limits.conventions.system
    entries = [_entry(planner.next(), pixels, system, ignore_eos=requests.ignore_eos) for _ in range(num_entries)]
    file.write_text(json.dumps({"data": entries}), encoding="utf-8")


def command_line(file: Path, *, url: str, model: str, num_entries: int, rate: float | None, concurrency: int) -> str:
    """Return the command that sends each entry of `file` once, at a rate or with so many at a time."""
    load = f"--concurrency-range {concurrency}"
    if rate is not None:
        load = f"--request-rate-range {rate:g} --request-distribution poisson"
    return (
        f"perf_analyzer -m {shlex.quote(model)} -u {shlex.quote(url)} -i grpc --async --streaming "
        f"--input-data {shlex.quote(str(file))} {load} --request-count {num_entries} --stability-percentage 999 "
        f"--profile-export-file {shlex.quote(str(file.with_suffix('.profile.json')))}"
    )


def _entry(plan: Plan, pixels: Pixels, system: str, *, ignore_eos: bool) -> dict[str, Any]:
    (turn,) = plan.turns
    sampling = {"max_tokens": turn.max_tokens, "temperature": 0} | ({"ignore_eos": True} if ignore_eos else {})
    sampling |= {"lora_name": plan.lora_name} if plan.lora_name else {}
    is_image, is_video = plan.kind == "image", plan.kind.startswith("video")
    prompt = build_prompt(turn.question, num_images=int(is_image), num_videos=int(is_video), system=system)
    entry: dict[str, Any] = {
        "text_input": [prompt],
        "sampling_parameters": [json.dumps(sampling)],
        "stream": [True],
    }
    # Absent media are left out: perf_analyzer crashes on a tensor without elements (seen with 2.48).
    if is_video:
        clip = pixels.warm_clip(plan.number) if plan.kind == "video_warm" else pixels.cold_clip()
        entry["video_frames"] = _tensor(clip.frames)
    if is_image:
        entry["image_frames"] = _tensor(pixels.cold_image()[np.newaxis])
    return entry


def _tensor(frames: np.ndarray) -> dict[str, Any]:
    return {"content": {"b64": base64.b64encode(frames.tobytes()).decode()}, "shape": list(frames.shape)}
