"""What this machine could do at best: matrix products of the models' shapes, and reading memory."""

import os
import time
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import onnxruntime
import psutil
import torch
from onnx import TensorProto, helper, numpy_helper

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
        # The faster of two libraries: torch leaves half of some processors' float32 unused.
        "gemm_fp32": max(best_rate(gemm, tower_shapes(shape)) for gemm in (_torch_fp32, _onnxruntime_fp32)),
        "gemm_fp32_wide": max(best_rate(gemm, tower_shapes(WIDE)) for gemm in (_torch_fp32, _onnxruntime_fp32)),
        "gemm_bf16": best_rate(torch_bf16, layer_shapes(shape)),
        "memory_bandwidth": _READ_BYTES / best_seconds(torch.ones(_READ_BYTES // 4).sum),
    }


def tower_shapes(shape: Shape) -> list[tuple[int, int]]:
    """(k, n) of the products in a layer of the tower and in the projector."""
    width = shape.tower_width
    return [(width, width), (width, 4 * width), (4 * width, width), (shape.width, shape.width)]


def layer_shapes(shape: Shape) -> list[tuple[int, int]]:
    """(k, n) of the products in a layer of the language model."""
    width, mlp = shape.width, shape.mlp_width
    return [(width, width + 2 * shape.kv_heads * HEAD_WIDTH), (width, width), (width, 2 * mlp), (mlp, width)]


Product = Callable[[int, int], Callable[[], object]]
"""Given k and n, returns what multiplies [positions of a video, k] x [k, n]."""


@torch.no_grad()
def best_rate(product: Product, shapes: Iterable[tuple[int, int]]) -> float:
    """Operations per second of the shape that is fastest."""
    return max(2 * VIDEO_TOKENS * k * n / best_seconds(product(k, n)) for k, n in shapes)


def _torch_fp32(k: int, n: int) -> Callable[[], object]:
    rows, weight = torch.randn(VIDEO_TOKENS, k), torch.randn(n, k)
    return lambda: torch.nn.functional.linear(rows, weight)


def torch_bf16(k: int, n: int) -> Callable[[], object]:
    """A `Product` in bfloat16, on torch's default device."""
    rows, weight = torch.randn(VIDEO_TOKENS, k).bfloat16(), torch.randn(n, k).bfloat16()
    return lambda: torch.nn.functional.linear(rows, weight)


def _onnxruntime_fp32(k: int, n: int) -> Callable[[], object]:
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["rows", "weight"], ["product"])],
        "gemm",
        [helper.make_tensor_value_info("rows", TensorProto.FLOAT, [VIDEO_TOKENS, k])],
        [helper.make_tensor_value_info("product", TensorProto.FLOAT, [VIDEO_TOKENS, n])],
        [numpy_helper.from_array(np.random.default_rng(0).standard_normal((k, n), np.float32), "weight")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = len(os.sched_getaffinity(0))
    session = onnxruntime.InferenceSession(model.SerializeToString(), options)
    rows = {"rows": np.random.default_rng(1).standard_normal((VIDEO_TOKENS, k), np.float32)}
    return lambda: session.run(None, rows)


def best_seconds(call: Callable[[], object]) -> float:
    """The best of ten calls after a first one."""
    call()
    seconds = []
    for _ in range(_NUM_TRIES):
        started = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - started)
    return min(seconds)
