"""A training of a few steps writes a whole checkpoint; what it knows is another matter."""

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from transformers import AutoTokenizer

from tiny.answering import Answerer, Prompt
from tiny.model import CONFIG
from tiny.stages import run_stage
from tiny.train import train


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained")
    train(folder, num_steps=(2, 1, 2), num_texts=300)
    return folder


def test_it_writes_the_files_of_a_checkpoint(trained):
    names = {path.name for path in trained.iterdir()}
    assert names >= {"config.json", "generation_config.json", "model.safetensors", "preprocessor_config.json"}
    assert {weight.dtype for weight in load_file(trained / "model.safetensors").values()} == {torch.bfloat16}
    assert AutoTokenizer.from_pretrained(trained)("<video>")["input_ids"][-1] == CONFIG.video_token_id
    (answer,) = Answerer(trained).answer([Prompt("USER: What happens? ASSISTANT:")])
    assert isinstance(answer, str)


def test_the_towers_are_copies_of_one(trained):
    weights = load_file(trained / "model.safetensors")
    names = [name for name in weights if "image_tower" in name]
    assert names
    assert all(torch.equal(weights[name], weights[name.replace("image_tower", "video_tower")]) for name in names)


def test_the_seed_alone_decides_what_is_trained():
    weights = []
    for seed in (1, 1, 2):
        torch.manual_seed(0)
        module = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 1))

        def losses(rngs, _, module=module):
            return {"loss": (module(torch.randn(8, 4, generator=rngs.torch)) - rngs.python.random()).square().mean()}

        run_stage("small", module, losses, 5, seed=seed)
        weights.append(module[1].weight)
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])
