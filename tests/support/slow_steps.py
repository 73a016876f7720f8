"""How tests ask for slow engine steps (overlay/vicuna/1/slow_steps.py, which runs in the engine).

The same overlay lets them ask for slow compiles of constraints (slow_compiles.py beside it), and delays the last
response of requests that a drain ends (slow_ends.py).
"""

from pathlib import Path

from .export import ENGINE_ARGUMENTS as _COMMON

OVERLAY = Path(__file__).with_name("overlay")
"""For `LocalServer(overlay=...)`."""
ENGINE_ARGUMENTS = {**_COMMON, "logits_processors": ["slow_steps:SlowSteps"]}
SEED = 20
"""The same as there: this process does not import vLLM."""
