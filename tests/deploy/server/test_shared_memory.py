"""Embeddings reach another process without a copy; their memory is used again once nobody has them, never before."""

import multiprocessing
from typing import Any

import pytest
import torch
from support.tensor_holder import hold_tensors
from video_llava_server import shared_memory
from video_llava_server.shared_memory import SharedTensors, is_installed
from vllm.v1.serial_utils import MsgpackEncoder

SHAPE = (2100, 4096)


@pytest.fixture(scope="module")
def engine():
    """Return `engine(command, value)`, which asks the other process."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=hold_tensors, args=(there,), daemon=True)
    process.start()

    def ask(command: str, value: Any) -> Any:
        here.send((command, value))
        assert here.poll(60)
        return here.recv()

    yield ask
    here.send(None)
    process.join(timeout=30)


def send(encoder, tensor) -> bytes:
    (message,) = encoder.encode(tensor)
    assert len(message) < 200
    return bytes(message)


def make(tensors: SharedTensors, value: float) -> torch.Tensor:
    return tensors.empty(SHAPE, torch.bfloat16).fill_(value)


def test_the_engine_loads_the_plugin():
    assert is_installed()


def test_memory_is_used_again_only_when_both_sides_have_let_go(engine):
    tensors = SharedTensors()
    encoder = MsgpackEncoder(oob_tensor_consumer=tensors)
    first = make(tensors, 1)
    address = first.data_ptr()
    # Two sequences of one request are sent one by one.
    assert [engine("decode", send(encoder, first)) for _ in range(2)] == [1, 1]
    del first
    second = make(tensors, 2)
    assert second.data_ptr() != address
    assert [engine("see", 0), engine("see", 1)] == [1, 1]
    engine("drop", 0)
    third = make(tensors, 3)
    assert third.data_ptr() != address
    engine("drop", 1)
    again = make(tensors, 4)
    assert again.data_ptr() == address
    assert engine("decode", send(encoder, again)) == 4
    assert (second.float().mean(), third.float().mean()) == (2, 3)


def test_what_was_never_sent_is_free_and_idle_memory_has_a_bound(monkeypatch):
    tensors = SharedTensors()
    held = [make(tensors, 1) for _ in range(4)]
    del held
    monkeypatch.setattr(shared_memory, "_MAX_IDLE_BYTES", 40 << 20)
    make(tensors, 2)
    assert len(tensors._blocks) == 2


def test_a_small_tensor_and_one_of_anybody_elses_are_sent_as_usual():
    tensors = SharedTensors()
    assert tensors(tensors.empty((4, 4), torch.float32)) is None
    assert tensors(torch.zeros(SHAPE)) is None
