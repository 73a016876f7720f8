"""A training of a few steps writes a whole checkpoint; what it knows is another matter."""

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoTokenizer

from tiny.answering import Answerer, Prompt
from tiny.card import write_card
from tiny.exam import Result
from tiny.train import train

NUM_STEPS = (2, 1, 2)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained")
    train(folder, num_steps=NUM_STEPS, num_texts=300)
    return folder


def test_it_writes_the_files_of_a_checkpoint(trained):
    names = {path.name for path in trained.iterdir()}
    assert names >= {"config.json", "generation_config.json", "model.safetensors", "preprocessor_config.json"}
    assert {weight.dtype for weight in load_file(trained / "model.safetensors").values()} == {torch.bfloat16}
    assert AutoTokenizer.from_pretrained(trained)("<video>")["input_ids"][-1] < 768


def test_its_answers_come_from_the_saved_files(trained):
    (answer,) = Answerer(trained).answer([Prompt("USER: What happens? ASSISTANT:")])
    assert isinstance(answer, str)


def test_the_towers_are_copies_of_one(trained):
    weights = load_file(trained / "model.safetensors")
    names = [name for name in weights if "image_tower" in name]
    assert names
    assert all(torch.equal(weights[name], weights[name.replace("image_tower", "video_tower")]) for name in names)


def test_the_same_command_goes_on_from_its_stages(trained):
    before = (trained / "model.safetensors").read_bytes()
    train(trained, num_steps=NUM_STEPS, num_texts=300)
    assert (trained / "model.safetensors").read_bytes() == before


def test_the_card_says_what_made_it_and_how_well_it_answers(trained):
    results = [Result("video", "event", "What happens?", "It grows.", "It grows.")]
    write_card(trained, results, command="python -m train", num_steps=NUM_STEPS)
    card = (trained / "README.md").read_text(encoding="utf-8")
    assert "    python -m train\n" in card
    assert "in 2 + 1 + 2 steps" in card
    assert "| video | event | 1 | 100.0 | 100.0 |" in card
    assert "{" not in card
