"""`in_process` once more, the language model in int8 (W8A8): `video-llava-export --llm-dtype int8`."""

from ..checkpoints import Checkpoints
from ..environment import set_engine_environment
from ..plan import Plan
from ..records import Result
from .in_process import measure

NAME = "in_process_int8"


def run(checkpoints: Checkpoints, plan: Plan) -> list[Result]:
    """All workloads on one engine."""
    set_engine_environment(checkpoints)
    return [measure(NAME, "the same, the language model in int8", checkpoints.int8_model, plan)]
