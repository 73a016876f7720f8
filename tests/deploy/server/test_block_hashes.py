"""Blocks of the prefix cache are told apart by their embeddings."""

from types import SimpleNamespace
from typing import Any

import torch
from video_llava_server import block_hashes
from vllm.plugins import load_plugins_by_group
from vllm.v1.core import kv_cache_utils

NUM_POSITIONS, BLOCK = 40, 16


def request(embeddings: torch.Tensor | None) -> Any:
    return SimpleNamespace(prompt_embeds=embeddings, mm_features=None, lora_request=None, cache_salt=None)


def keys(embeddings: torch.Tensor | None, block: int) -> Any:
    """As vLLM asks for them."""
    start = block * BLOCK
    found, _ = kv_cache_utils.generate_block_hash_extra_keys(request(embeddings), start, start + BLOCK, 0)
    return found


def test_vllm_asks_us(monkeypatch):
    theirs = kv_cache_utils._gen_prompt_embeds_extra_hash_keys
    monkeypatch.setattr(kv_cache_utils, theirs.__name__, theirs)
    load_plugins_by_group("vllm.general_plugins")["video_llava_block_hashes"]()
    assert kv_cache_utils._gen_prompt_embeds_extra_hash_keys is block_hashes.extra_keys
    embeddings = torch.randn(NUM_POSITIONS, 8).to(torch.bfloat16)
    changed = embeddings.clone()
    changed[BLOCK + 3, 5] += 1
    assert keys(embeddings, 0) == keys(changed, 0) == keys(embeddings.clone(), 0)
    assert keys(embeddings, 1) != keys(changed, 1)
    assert len({keys(embeddings, block) for block in range(3)}) == 3
    assert keys(None, 0) is None
