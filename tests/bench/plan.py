"""How much of each workload every contestant does: enough to be steady, and to end in 20 minutes."""

from collections.abc import Callable
from dataclasses import dataclass

from .records import Run
from .shapes import FULL, QUICK, Shape
from .workloads import Size


@dataclass(frozen=True)
class Plan:
    """`num_tokens` of every answer; `sizes` by contestant; `warm_up` is asked first of every server and not counted.

    Contestants that are close to each other run in `num_rounds`, every other one in reverse: a machine that grows
    slower or faster meanwhile does so for all of them alike. `on_run` is called with each run that has ended.
    """

    shape: Shape
    num_tokens: int
    warm_up: Size
    sizes: dict[str, tuple[Size, ...]]
    num_rounds: int
    on_run: Callable[[Run], None] = lambda _: None

    def sizes_of(self, contestant: str) -> tuple[Size, ...]:
        """In the order they are run."""
        return self.sizes[contestant]

    @property
    def num_videos_in_cache(self) -> int:
        """Videos that the key-value cache must hold for no session to lose its own."""
        return 2 * max(size.concurrency for sizes in self.sizes.values() for size in sizes)


_FULL = Plan(
    shape=FULL,
    num_tokens=64,
    # As many at a time as later: what memory and kernels cost when first used is no server's throughput.
    warm_up=Size("unique", 16, 16),
    sizes={
        "hf_one_by_one": (Size("unique", 1, 3), Size("eight", 1, 1), Size("text", 1, 4)),
        "hf_batched": (Size("unique", 4, 4), Size("eight", 4, 1), Size("text", 4, 4)),
        "in_process": (
            Size("eight", 1, 4),
            Size("unique", 16, 16),
            Size("eight", 16, 16),
            Size("text", 16, 64),
        ),
        "in_process_int8": (
            Size("unique", 16, 16),
            Size("text", 16, 64),
        ),
        "triton": (
            Size("eight", 1, 4),
            Size("unique", 1, 2),
            Size("unique", 4, 8),
            Size("unique", 16, 16),
            Size("eight", 4, 4),
            Size("eight", 16, 16),
            Size("text", 1, 4),
            Size("text", 4, 16),
            Size("text", 16, 64),
        ),
        "triton_int8": (
            Size("unique", 16, 16),
            Size("eight", 16, 16),
            Size("text", 16, 64),
        ),
        "vllm_serve": (
            Size("unique", 16, 16),
            Size("eight", 16, 16),
            Size("text", 16, 64),
        ),
    },
    num_rounds=2,
)
_FEW = (Size("unique", 1, 1), Size("unique", 2, 2), Size("eight", 1, 1), Size("text", 1, 2))
_QUICK = Plan(
    shape=QUICK, num_tokens=8, warm_up=Size("unique", 1, 1), sizes=dict.fromkeys(_FULL.sizes, _FEW), num_rounds=1
)
PLANS = {"full": _FULL, "quick": _QUICK}
