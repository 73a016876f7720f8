"""Lets vLLM's CPU engine survive a request with a seed.

While a prompt is read in pieces, vLLM samples after each piece, throws the token away and sets the request's random
numbers back by their offset. Those of a CPU have none, and torch's refusal ends the whole engine (vLLM 0.32). Here they
are not set back: with the same seed an answer may be another one where its prompt was cut otherwise.
"""

import torch


class _GeneratorWithOffset(torch.Generator):
    """A generator whose offset can be set to no effect."""

    def get_offset(self) -> int:
        return 0

    def set_offset(self, offset: int) -> torch.Generator:
        del offset
        return self


class Worker:
    """For the engine's `worker_extension_cls`: vLLM's workers import it, each in its own process, and nothing else
    of this server lives there."""


torch.Generator = _GeneratorWithOffset
