"""What the GPU does at best (matrix products of the model's shapes and a large one, copies), and a core of the host."""

from collections.abc import Callable
from typing import Any

import torch
from bench.machine import best_rate, best_seconds, layer_shapes, torch_bf16, tower_shapes
from bench.shapes import VIDEO_TOKENS

from .plan import DEVICE, DRY, PLAN, SIZE

_SQUARE = 256 if DRY else 8192
_COPIED_BYTES = 1 << (24 if DRY else 31)


def run() -> dict[str, Any]:
    """Operations and bytes per second; seconds for the features of one video in 16 bits, and for a loop in Python."""
    torch.set_default_device(DEVICE)
    side = torch.randn(_SQUARE, _SQUARE, dtype=torch.bfloat16)
    shapes = (*layer_shapes(PLAN.shape), *tower_shapes(PLAN.shape))
    source, target = (torch.ones(_COPIED_BYTES, dtype=torch.uint8) for _ in range(2))
    features = torch.ones(VIDEO_TOKENS, PLAN.shape.width, dtype=torch.float16)
    on_host = features.cpu()
    return {
        "size": SIZE,
        "square_product": 2 * _SQUARE**3 / _seconds(lambda: side @ side),
        "layer_product": best_rate(lambda k, n: _waited(torch_bf16(k, n)), shapes),
        "copy": 2 * _COPIED_BYTES / _seconds(lambda: target.copy_(source)),
        "features_to_host_seconds": _seconds(lambda: on_host.copy_(features)),
        "features_to_device_seconds": _seconds(lambda: features.copy_(on_host)),
        "features_on_host_seconds": best_seconds(on_host.numpy().copy),
        "million_steps_seconds": best_seconds(lambda: sum(1 for _ in range(1_000_000))),
    }


def _seconds(call: Callable[[], Any]) -> float:
    return best_seconds(_waited(call))


def _waited(call: Callable[[], Any]) -> Callable[[], Any]:
    def wait() -> None:
        call()
        if DEVICE == "cuda":
            torch.cuda.synchronize()

    return wait
