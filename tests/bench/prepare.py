"""Makes the checkpoints, where they are not there yet, and exports them anew."""

from typing import Any

from .checkpoints import Checkpoints, cache_bytes, export, make_checkpoints, refresh
from .plan import Plan
from .shapes import WIDE


def run(checkpoints: Checkpoints, plan: Plan) -> dict[str, Any]:
    """Every engine's key-value cache holds the videos of all sessions, so that none measures evictions."""
    make_checkpoints(checkpoints, plan.shape)
    cache = cache_bytes(plan.shape, num_videos=plan.num_videos_in_cache)
    export(checkpoints.video_llava, checkpoints.repository, kv_cache_memory_bytes=cache)
    export(checkpoints.video_llava, checkpoints.int8_repository, "--llm-dtype", "int8", kv_cache_memory_bytes=cache)
    _export_wide(checkpoints)
    return {"engine_arguments": checkpoints.engine_arguments()}


def _export_wide(checkpoints: Checkpoints) -> None:
    """Once, since its encoders take long; with the configurations and models of today all the same."""
    if not checkpoints.wide_repository.exists():
        cache = cache_bytes(WIDE, num_videos=4)
        export(checkpoints.wide, checkpoints.wide_repository, kv_cache_memory_bytes=cache, enforce_eager=True)
    if not checkpoints.wide_int8_repository.exists():
        export(checkpoints.wide, checkpoints.wide_int8_repository, "--encoder-precision", "int8")
    refresh(checkpoints.wide_repository)
