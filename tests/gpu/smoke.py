"""Ways to run the engine, tried side by side with a small model: the first one that works runs everything after it."""

import os
from dataclasses import dataclass, field
from typing import Any

from bench.checkpoints import Checkpoints

from .plan import CHECKPOINTS, MODELS, RESULTS, SMOKE
from .weights import give_arguments

_SIZES = [1, 2, 4, 8, 16, 24, 32, 40, 48, 64, 80, 96, 128]
# A small share of the GPU for each.
_SHARE = {"gpu_memory_utilization": 0.1, "kv_cache_memory_bytes": 1 << 28}


@dataclass(frozen=True)
class Variant:
    """What vLLM is told, by its arguments and its environment."""

    arguments: dict[str, Any]
    environment: dict[str, str] = field(default_factory=dict)


_V1 = {"VLLM_USE_V2_MODEL_RUNNER": "0"}
_COMPILED = {"compilation_config": {"cudagraph_capture_sizes": _SIZES}}
_GRAPHS = {"compilation_config": {"mode": 0, "cudagraph_mode": "FULL_DECODE_ONLY", "cudagraph_capture_sizes": _SIZES}}
VARIANTS = {
    "compiled": Variant(_COMPILED),
    "compiled_v1": Variant(_COMPILED, _V1),
    "graphs": Variant(_GRAPHS),
    "eager": Variant({"enforce_eager": True}, _V1),
}


def run(name: str) -> dict[str, Any]:
    """Answer a few questions with the variant `name`."""
    os.environ.update(VARIANTS[name].environment)
    from bench.contestants import in_process  # not before the environment is set

    folder = MODELS / f"smoke-{name}"
    give_arguments(MODELS / "small", folder, VARIANTS[name].arguments | _SHARE)
    result = in_process.measure(in_process.NAME, name, Checkpoints(folder).model, SMOKE)
    return {"start_seconds": result.start_seconds}


def use_first_that_works() -> None:
    """Give its arguments to the model that is served, and its environment to this process. Raises RuntimeError."""
    works = [name for name in VARIANTS if (RESULTS / f"smoke-{name}.json").exists()]
    if not works:
        raise RuntimeError(f"no way to run the engine works: see smoke-*.log in {RESULTS}")
    os.environ.update(VARIANTS[works[0]].environment)
    if not CHECKPOINTS.model.exists():
        give_arguments(CHECKPOINTS.folder, CHECKPOINTS.folder, VARIANTS[works[0]].arguments)
