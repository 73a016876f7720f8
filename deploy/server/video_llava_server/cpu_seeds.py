"""Lets vLLM's CPU engine survive a request with a seed.

During chunked prefill vLLM samples after each chunk, drops the token and sets the request's random generator back to
its old offset. A generator on the CPU has no offset, and torch's refusal ends the whole engine (vLLM 0.32). Here the
offset is not set back: with the same seed an answer can differ where its prompt was cut into other chunks.
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
    """For the engine's `worker_extension_cls`: each of vLLM's worker processes imports this module for it."""


torch.Generator = _GeneratorWithOffset
