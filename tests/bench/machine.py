"""What this machine could do at best: matrix products of the models' shapes, and reading memory."""

import os
import time
from collections.abc import Callable, Iterable
from typing import Any

import psutil
import torch

from .checkpoints import Checkpoints
from .plan import Plan
from .shapes import HEAD_WIDTH, VIDEO_TOKENS, WIDE, Shape

_NUM_TRIES = 10
# Beyond any cache of the processor.
_READ_BYTES = 1 << 30


def run(checkpoints: Checkpoints, plan: Plan) -> dict[str, Any]:
    """Operations and bytes per second, with all the processors that this process may use."""
    del checkpoints
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    shape = plan.shape
    return {
        "num_processors": len(os.sched_getaffinity(0)),
        "memory_bytes": psutil.virtual_memory().total,
        "load_average": os.getloadavg()[0],
        "gemm_fp32": _best_gemm(_tower_shapes(shape), torch.float32),
        "gemm_fp32_wide": _best_gemm(_tower_shapes(WIDE), torch.float32),
        "gemm_bf16": _best_gemm(_layer_shapes(shape), torch.bfloat16),
        "memory_bandwidth": _READ_BYTES / _best_seconds(torch.ones(_READ_BYTES // 4).sum),
    }


def _tower_shapes(shape: Shape) -> list[tuple[int, int]]:
    width = shape.tower_width
    return [(width, width), (width, 4 * width), (4 * width, width), (shape.width, shape.width)]


def _layer_shapes(shape: Shape) -> list[tuple[int, int]]:
    width, mlp = shape.width, shape.mlp_width
    return [(width, width + 2 * shape.kv_heads * HEAD_WIDTH), (width, width), (width, 2 * mlp), (mlp, width)]


@torch.no_grad()
def _best_gemm(shapes: Iterable[tuple[int, int]], dtype: torch.dtype) -> float:
    """Operations per second of the fastest of the products [positions of a video, k] x [k, n]."""
    return max(_gemm(k, n, dtype) for k, n in shapes)


def _gemm(k: int, n: int, dtype: torch.dtype) -> float:
    rows = torch.randn(VIDEO_TOKENS, k).to(dtype)
    weight = torch.randn(n, k).to(dtype)
    return 2 * VIDEO_TOKENS * k * n / _best_seconds(lambda: torch.nn.functional.linear(rows, weight))


def _best_seconds(call: Callable[[], object]) -> float:
    call()
    seconds = []
    for _ in range(_NUM_TRIES):
        started = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - started)
    return min(seconds)
