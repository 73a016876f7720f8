"""Conversations, and their rows in a batch."""

import random

import pytest
import torch
from transformers import AutoTokenizer
from video_llava_client import build_prompt

from tiny.batches import Packer
from tiny.conversations import draw_conversation
from tiny.model import CHECKPOINT
from tiny.scenes import draw_clip, draw_picture


@pytest.mark.parametrize(("num_images", "num_videos"), [(0, 1), (1, 0), (1, 1)])
def test_the_text_is_the_prompt_of_the_client(num_images, num_videos):
    rng = random.Random(7)
    clip, picture = draw_clip(rng, held_out=False), draw_picture(rng, held_out=False)

    conversation = draw_conversation(
        rng, clip=clip if num_videos else None, picture=picture if num_images else None, num_turns=2
    )

    first, second = conversation.turns
    turns = [(first.text, first.answer)]
    prompt = build_prompt(second.text, num_images=num_images, num_videos=num_videos, turns=turns)
    assert conversation.prompt(1) == prompt
    assert conversation.text == f"{prompt} {second.answer}</s>"


def test_with_two_media_the_question_names_the_medium():
    rng = random.Random(7)
    for _ in range(200):
        clip, picture = draw_clip(rng, held_out=False), draw_picture(rng, held_out=False)
        (turn,) = draw_conversation(rng, clip=clip, picture=picture).turns
        assert turn.kind == "refusal" or any(word in turn.text for word in ("video", "image"))


@pytest.fixture(scope="module")
def packer():
    return Packer(AutoTokenizer.from_pretrained(CHECKPOINT), num_text_tokens=120)


def pack(packer: Packer, *, clip: bool, picture: bool):
    rng = random.Random(2)
    clips = [draw_clip(rng, held_out=False) if clip else None for _ in range(4)]
    pictures = [draw_picture(rng, held_out=False) if picture else None for _ in range(4)]
    return packer.pack(rng, list(zip(clips, pictures, strict=True)))


@pytest.mark.parametrize(("clip", "picture"), [(True, False), (False, True), (True, True)])
def test_only_answers_are_learned_and_each_feature_has_a_token(packer, clip, picture):
    packed = pack(packer, clip=clip, picture=picture)
    for ids, learned in zip(packed.ids, packed.learned, strict=True):
        text = packer.tokenizer.decode(ids[learned])
        assert not any(part in text for part in ("USER", "ASSISTANT", "?"))
        assert text.count("</s>") >= 3
    assert not packed.learned[:, : packed.prefix].any()
    image, video = packer.tokenizer.convert_tokens_to_ids(["<image>", "<video>"])
    assert (packed.ids == image).sum(1).tolist() == [16 * picture] * 4
    assert (packed.ids == video).sum(1).tolist() == [136 * clip] * 4


def test_conversations_attend_to_the_media_and_themselves_only(packer):
    packed = pack(packer, clip=True, picture=False)
    allowed, positions = packed.mask[0, 0] == 0, packed.positions[0]
    assert torch.equal(allowed, allowed.tril())
    for row in range(packed.prefix, len(positions)):
        # As many tokens as stand before it in its own conversation; position 0 is padding.
        assert allowed[row].sum() == positions[row] + 1 or positions[row] == 0
