"""Makes the checkpoints and their exports, where they are not there yet."""

from typing import Any

from .checkpoints import Checkpoints, cache_bytes, export, make_checkpoints
from .plan import Plan
from .shapes import WIDE


def run(made: Checkpoints, plan: Plan) -> dict[str, Any]:
    """Every engine's KV cache holds the videos of all sessions, so that none measures evictions."""
    make_checkpoints(made, plan.shape)
    cache = cache_bytes(plan.shape, num_videos=plan.num_videos_in_cache)
    export(made.video_llava, made.model, kv_cache_memory_bytes=cache)
    export(made.video_llava, made.int8_model, "--llm-dtype", "int8", kv_cache_memory_bytes=cache)
    wide_cache = cache_bytes(WIDE, num_videos=4)
    export(made.wide, made.wide_model, kv_cache_memory_bytes=wide_cache, enforce_eager=True)
    export(made.wide, made.wide_int8_model, "--encoder-precision", "int8")
    return {"engine_arguments": made.engine_arguments()}
