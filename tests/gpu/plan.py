"""What is measured: the model's shape, how much each contestant is asked, and where things lie on the machine."""

import os
from pathlib import Path
from typing import Any

import numpy as np
from bench.checkpoints import Checkpoints
from bench.plan import Plan
from bench.shapes import Shape
from bench.workloads import Size

DRY = "DRY" in os.environ
"""a model of one layer on the CPU, to see that all steps run"""
DEVICE = "cpu" if DRY else "cuda"
KIT = Path(os.environ.get("KIT", "."))
RESULTS = KIT / "results"
MODELS = Path(os.environ.get("MODELS", "."))

SHAPES = {
    "full": Shape(tower_width=1024, tower_layers=24, width=4096, layers=32, mlp_width=11_008, kv_heads=32),
    "small": Shape(tower_width=64, tower_layers=2, width=128, layers=1, mlp_width=128, kv_heads=1),
}
SIZE = "small" if DRY else "full"
CHECKPOINTS = Checkpoints(MODELS / SIZE)

# What the targets need comes first: the step may be cut off. The KV cache holds some 45 videos, so 32 sessions that
# ask eight questions keep theirs, and 64 do not.
_ALL = (
    Size("eight", 1, 2),
    Size("unique", 1, 6),
    Size("unique", 64, 128),
    Size("eight", 32, 32),
    Size("text", 64, 256),
)
_SERVER = (*_ALL, Size("unique", 16, 64), Size("eight", 16, 32), Size("eight", 64, 64))
_FEW = (Size("eight", 1, 1), Size("unique", 1, 1), Size("unique", 2, 2), Size("eight", 2, 2), Size("text", 2, 2))
_CONTESTANTS = ("in_process", "triton", "vllm_serve")
_SIZES = dict.fromkeys(_CONTESTANTS, _ALL) | {"triton": _SERVER}
_FULL = Plan(SHAPES["full"], 64, Size("unique", 16, 32), _SIZES, num_rounds=1)
_DRY = Plan(SHAPES["small"], 4, Size("unique", 1, 1), dict.fromkeys(_CONTESTANTS, _FEW), num_rounds=1)
PLAN = _DRY if DRY else _FULL
SMOKE = Plan(SHAPES["small"], 8, Size("unique", 1, 1), {"in_process": (Size("unique", 2, 4),)}, num_rounds=1)
GENERATE_BATCHES = (1, 2) if DRY else (1, 8, 16, 32, 48)
ENCODER_BATCHES = (1, 2) if DRY else (1, 2, 4, 8)
PARITY_TOKENS = 16


def quantile(values: Any, share: float) -> float:
    """0.99: the value that one in a hundred exceeds. 0 without values: gaps of answers that came in one piece."""
    return float(np.quantile(np.asarray(values or [0.0]), share, method="inverted_cdf"))
