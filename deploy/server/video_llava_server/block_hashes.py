"""The prefix cache knows a prompt's embeddings by their BLAKE3 hashes; vLLM's own SHA-256 takes longer.

A video of the 7B has 16.8 MB of embeddings. The engine hashes them on the thread that takes its requests, also those of
a video that it knows.
"""

from typing import TYPE_CHECKING, Any

from blake3 import blake3
from vllm.v1.core import kv_cache_utils
from vllm.v1.utils import tensor_data

if TYPE_CHECKING:
    from vllm.v1.request import Request


def install() -> None:
    """Use these hashes. A plugin of vLLM's (pyproject.toml), run in each of its processes."""
    module: Any = kv_cache_utils
    module._gen_prompt_embeds_extra_hash_keys = extra_keys


def extra_keys(request: "Request", start: int, end: int) -> list[tuple[str, bytes]]:
    """Return what the hash of the block with positions `start` to `end` depends on beside its token ids.

    Each block's range is asked for once, or twice when a preempted request comes back.
    """
    if request.prompt_embeds is None:
        return []
    return [("prompt_embeds", blake3(tensor_data(request.prompt_embeds[start:end])).digest())]
