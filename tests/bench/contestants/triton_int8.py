"""`triton` once more, the language model in int8 (W8A8): `video-llava-export --llm-dtype int8`."""

from ..checkpoints import Checkpoints
from ..plan import Plan
from ..records import Result
from .triton import measure

NAME = "triton_int8"


def run(checkpoints: Checkpoints, plan: Plan) -> list[Result]:
    """All workloads on one server."""
    return [measure(NAME, "the same, the language model in int8", checkpoints.int8_model, plan)]
