"""Engine steps as long as the 7B model's on a GPU, for requests that ask for them.

The small checkpoint makes a token in a millisecond or two, less than a request takes to the engine on a busy machine.
What "within two tokens" means can only be seen at the pace of a real model. The engine finds this file since Triton's
Python backend has a model's own folder on its path.
"""

import time

import torch
from vllm.config import VllmConfig
from vllm.v1.sample.logits_processor import BatchUpdate, LogitsProcessor, MoveDirectionality

STEP_SECONDS = 0.05
SEED = 20
"""A greedy request with this seed, which it has no other use for, makes every step that it is in a slow one."""


class SlowSteps(LogitsProcessor):
    """Changes no logit; waits where a slow request is in the batch."""

    def __init__(self, vllm_config: VllmConfig, device: torch.device, is_pin_memory: bool) -> None:
        del vllm_config, device, is_pin_memory
        self._slow: set[int] = set()

    def is_argmax_invariant(self) -> bool:
        return False  # those that are, are not called for greedy requests

    def update_state(self, batch_update: BatchUpdate | None) -> None:
        if batch_update is None:
            return
        self._slow -= set(batch_update.removed)
        for index, params, _prompt, _output in batch_update.added:
            (self._slow.add if params.seed == SEED else self._slow.discard)(index)
        for source, target, direction in batch_update.moved:
            self._move(source, target, swap=direction == MoveDirectionality.SWAP)

    def _move(self, source: int, target: int, *, swap: bool) -> None:
        moved = {source: target, target: source} if swap else {source: target}
        kept = self._slow - {source, target}
        self._slow = kept | {moved[index] for index in self._slow if index in moved}

    def apply(self, logits: torch.Tensor) -> torch.Tensor:
        if self._slow:
            time.sleep(STEP_SECONDS)
        return logits
