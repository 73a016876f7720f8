"""What vLLM does to a seeded request's random numbers, with those of a CPU."""

import importlib

import torch


def test_a_generators_offset_can_be_set_and_its_numbers_are_torchs_own(monkeypatch):
    monkeypatch.setattr(torch, "Generator", torch.Generator)  # undone in the end
    plain = torch.Generator(device="cpu")
    importlib.import_module("video_llava_server.cpu_seeds")
    ours = torch.Generator(device="cpu")
    assert type(ours) is not type(plain)
    ours.manual_seed(3)
    plain.manual_seed(3)
    ours.set_offset(ours.get_offset() - 4)
    assert torch.equal(torch.rand(3, generator=ours), torch.rand(3, generator=plain))
