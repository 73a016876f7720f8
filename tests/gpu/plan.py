"""What is measured: the model's shape, how much each contestant is asked, and where things lie on the machine."""

import os
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from bench import workloads
from bench.checkpoints import Checkpoints
from bench.plan import Plan
from bench.shapes import Shape
from bench.workloads import Size

DRY = "DRY" in os.environ
"""a model of one layer on the CPU, to see that all steps run"""
DEVICE = "cpu" if DRY else "cuda"
PATIENCE = int(os.environ.get("PATIENCE", "1"))
"""times as long as an idle machine needs is waited"""
ROOT = Path(__file__).parents[2]
KIT = Path(os.environ.get("KIT", "."))
RESULTS = KIT / "results"
MODELS = Path(os.environ.get("MODELS", "."))
_FRAMES = ROOT / "tests" / "media" / "bikes.npy"

SHAPES = {
    "full": Shape(tower_width=1024, tower_layers=24, width=4096, layers=32, mlp_width=11_008, kv_heads=32),
    "small": Shape(tower_width=64, tower_layers=2, width=128, layers=1, mlp_width=128, kv_heads=1),
}
SIZE = "small" if DRY else "full"
CHECKPOINTS = Checkpoints(MODELS / SIZE)

_SERVERS = (
    Size("eight", 1, 2),
    Size("unique", 1, 6),
    Size("unique", 16, 64),
    Size("unique", 64, 128),
    Size("eight", 16, 32),
    Size("eight", 64, 64),
    Size("text", 64, 256),
)
_FEW = (Size("eight", 1, 1), Size("unique", 1, 1), Size("unique", 2, 2), Size("eight", 2, 2), Size("text", 2, 2))
_CONTESTANTS = ("in_process", "triton", "vllm_serve")
_FULL = Plan(SHAPES["full"], 64, Size("unique", 16, 32), dict.fromkeys(_CONTESTANTS, _SERVERS), num_rounds=1)
_DRY = Plan(SHAPES["small"], 4, Size("unique", 1, 1), dict.fromkeys(_CONTESTANTS, _FEW), num_rounds=1)
PLAN = _DRY if DRY else _FULL
SMOKE = Plan(SHAPES["small"], 8, Size("unique", 1, 1), {"in_process": (Size("unique", 2, 4),)}, num_rounds=1)
GENERATE_BATCHES = (1, 2) if DRY else (1, 8, 16, 32, 48)
ENCODER_BATCHES = (1, 2) if DRY else (1, 2, 4, 8)
PARITY_TOKENS = 16


def use_carried_frames() -> None:
    """No video is decoded on the machine: `bench` takes the frames that `kit.py` decoded."""
    workloads._real_frames = cache(lambda: np.load(_FRAMES))


def quantile(values: Any, share: float) -> float:
    """0.99: the value that one in a hundred exceeds. 0 without values: gaps of answers that came in one piece."""
    return float(np.quantile(np.asarray(values or [0.0]), share, method="inverted_cdf"))
