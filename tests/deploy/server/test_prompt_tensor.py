"""Of a prompt's embeddings only those rows are made, hashed and copied that are asked for."""

import ctypes
import multiprocessing
import pickle
import sys
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from support.prompt_reader import read_prompts
from video_llava_server import prompt_tensor
from video_llava_server.features import Features, FeatureStore
from video_llava_server.prompt_tensor import Parts, PromptSender, PromptTensor, Span, is_installed
from vllm.plugins import load_plugins_by_group
from vllm.v1.core import kv_cache_utils
from vllm.v1.serial_utils import MsgpackEncoder
from vllm.v1.worker.gpu.model_states.prompt_embeds import PromptEmbedsState

HIDDEN, VOCABULARY = 8, 50
BLOCK = 16
RANDOM = np.random.default_rng(0)
MEDIA = RANDOM.standard_normal((40, HIDDEN)).astype(np.float16)
IDS = np.array([1, 2, 3, *[9] * 20, 4, *[9] * 20, 5, 6], np.int32)


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """The folder of an embedding table, and the table."""
    folder, rows = tmp_path_factory.mktemp("language_model"), torch.randn(VOCABULARY, HIDDEN)
    save_file({"model.embed_tokens.weight": rows}, folder / "model.safetensors")
    return folder, rows


@pytest.fixture
def store():
    return FeatureStore(1 << 20)


def make(table, store, *, media=MEDIA, ids=IDS, dtype=torch.float32) -> PromptTensor:
    features = Features.open(store.put(media))
    spans = Span(3, 23, 0, features), Span(24, 44, 20, features)
    return PromptTensor.of(Parts(str(table[0]), ids, spans, dtype), HIDDEN)


def expected(table, *, media=MEDIA, ids=IDS) -> torch.Tensor:
    text, media = table[1][ids], torch.from_numpy(media.astype(np.float32))
    return torch.cat([text[:3], media[:20], text[23:24], media[20:], text[44:]])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_rows_are_those_of_the_text_and_of_the_media(table, store, dtype):
    prompt = make(table, store, dtype=dtype)
    assert (prompt.shape, prompt.dtype, prompt.nbytes) == ((46, HIDDEN), dtype, 46 * HIDDEN * dtype.itemsize)
    want = expected(table).to(dtype)
    for start, stop in ((0, 46), (0, 3), (3, 23), (2, 4), (22, 25), (23, 24), (40, 46), (44, 46), (7, 7)):
        assert torch.equal(prompt[start:stop], want[start:stop])
    assert torch.equal(prompt[40:], want[40:])


def test_nothing_of_a_known_video_is_mapped_or_hashed(table, store, keys):
    prompt = make(table, store)
    (features,) = {span.features for span in prompt.parts.spans}
    assert torch.equal(prompt[44:], expected(table)[44:])
    assert all(keys(prompt, block) for block in range(3))
    assert "array" not in vars(features)
    assert torch.equal(prompt[43:], expected(table)[43:])
    assert "array" in vars(features)


@pytest.fixture(scope="module")
def engine():
    """Return `engine(command, value)`, which asks the other process."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=read_prompts, args=(there,), daemon=True)
    process.start()

    def ask(command: str, value: Any) -> Any:
        here.send((command, value))
        assert here.poll(200)
        return here.recv()

    yield ask
    here.send(None)
    process.join(timeout=30)


def encode(prompt: PromptTensor) -> bytes:
    (message,) = MsgpackEncoder(oob_tensor_consumer=PromptSender()).encode(prompt)
    content: Any = message
    return bytes(content)


def test_the_engine_reads_it_after_everyone_else_has_let_go(table, store, engine):
    assert is_installed()
    prompt = make(table, store)
    message = encode(prompt)
    assert len(message) < 1000
    # Two sequences of one request are sent one by one.
    assert [engine("decode", message) for _ in range(2)] == [(46, HIDDEN)] * 2
    del prompt, store
    assert np.array_equal(engine("read", (1, 20, 26)), expected(table)[20:26].numpy())
    engine("forget", None)


def test_a_prompt_that_is_gone_before_the_engine_has_it_harms_nobody(table, store, engine):
    prompt = make(table, store)
    message = encode(prompt)
    del prompt, store
    assert engine("decode", message) == (46, HIDDEN)
    assert not engine("read", (0, 3, 23)).any()
    # Another request with the same media, while the engine still has the one that is gone.
    prompt = make(table, FeatureStore(1 << 20))
    assert engine("decode", encode(prompt)) == (46, HIDDEN)
    assert np.array_equal(engine("read", (1, 0, 46)), expected(table).numpy())
    engine("forget", None)


def test_other_tensors_are_sent_as_ever():
    assert PromptSender()(torch.zeros(2, 2)) is None


def test_vllms_workers_get_it_by_reference(table, store):
    prompt = make(table, store)
    content = pickle.dumps(prompt)
    assert len(content) < 1500
    assert torch.equal(pickle.loads(content)[:], expected(table))


def test_rays_workers_get_it_whole(table, store, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", SimpleNamespace(is_initialized=lambda: True))
    got = pickle.loads(pickle.dumps(make(table, store)))
    assert type(got) is torch.Tensor
    assert torch.equal(got, expected(table))


@pytest.fixture
def keys(monkeypatch):
    """Return `keys(prompt, block)`, as vLLM asks for them."""
    name = "_gen_prompt_embeds_extra_hash_keys"
    monkeypatch.setattr(kv_cache_utils, name, getattr(kv_cache_utils, name))
    monkeypatch.setattr(prompt_tensor, "_install_decoder", lambda: None)
    load_plugins_by_group("vllm.general_plugins")["video_llava_prompt"]()

    def ask(prompt: Any, block: int) -> Any:
        request: Any = SimpleNamespace(prompt_embeds=prompt, mm_features=None, lora_request=None, cache_salt=None)
        start = block * BLOCK
        found, _ = kv_cache_utils.generate_block_hash_extra_keys(request, start, start + BLOCK, 0)
        return found

    return ask


def test_blocks_are_told_apart_by_their_tokens_and_media(table, store, keys):
    prompt = make(table, store)
    other_media = make(table, store, media=MEDIA + 1)
    other_text = make(table, store, ids=np.where(IDS == 2, 7, IDS))
    assert [keys(prompt, block) == keys(other_media, block) for block in range(3)] == [False] * 3
    assert [keys(prompt, block) == keys(other_text, block) for block in range(3)] == [False, True, True]
    assert [keys(prompt, block) == keys(make(table, store), block) for block in range(3)] == [True] * 3
    assert len({str(keys(prompt, block)) for block in range(3)}) == 3
    assert keys(None, 0) is None


def test_the_same_media_elsewhere_are_another_block(table, store, keys):
    features = Features.open(store.put(MEDIA))
    ids = np.full(40, 9, np.int32)

    def key(first_row: int) -> Any:
        parts = Parts(str(table[0]), ids, (Span(0, 20, first_row, features),), torch.float32)
        return keys(PromptTensor.of(parts, HIDDEN), 0)

    assert key(0) != key(20)


@dataclass
class NewRequest:
    """What the model runner reads of vLLM's NewRequestData."""

    prompt_embeds: torch.Tensor
    num_computed_tokens: int
    req_id: str = "a"
    prompt_is_token_ids: None = None


@pytest.mark.parametrize("num_computed", [0, 10, 32, 45, 46, 60])
def test_on_a_gpu_rows_that_the_prefix_cache_has_are_not_copied(table, store, num_computed):
    """vLLM's own code on the CPU; the kernel reads row r at the pointer plus r rows."""

    class State(PromptEmbedsState):
        pass

    prompt_tensor.install_copies(State)
    state: Any = SimpleNamespace(device="cpu", dtype=torch.float32, gpu_tensors={})
    for name, dtype in (("embeds_ptrs", np.uint64), ("mask_ptrs", np.uint64), ("embeds_lens", np.int32)):
        setattr(state, name, SimpleNamespace(np=np.zeros(4, dtype)))
    prompt, want = make(table, store), expected(table)
    request: Any = NewRequest(prompt, num_computed)
    State.add_request(state, 2, request)
    copied, _ = state.gpu_tensors["a"]
    first = min(num_computed, 45)
    assert len(copied) == 46 - first
    assert state.embeds_lens.np[2] == 46
    for row in range(first, 46):
        address = int(state.embeds_ptrs.np[2]) + row * HIDDEN * 4
        assert list((ctypes.c_float * HIDDEN).from_address(address)) == want[row].tolist()
    State.add_request(state, 1, replace(request, prompt_embeds=want))
    assert state.gpu_tensors["a"][0].data_ptr() == int(state.embeds_ptrs.np[1])
