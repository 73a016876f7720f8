import random

import pytest
import torch

from tiny.batches import Packer
from tiny.scenes import draw_clip, draw_picture
from tiny.stages import chance
from tiny.tokenizer import make_tokenizer
from tiny.train import tokenizer_texts


@pytest.fixture(scope="module")
def packer():
    return Packer(make_tokenizer(tokenizer_texts(random.Random(0), 300)), num_text_tokens=120)


def pack(packer: Packer, *, clip: bool, picture: bool):
    rng = random.Random(2)
    clips = [draw_clip(rng, held_out=False) if clip else None for _ in range(4)]
    pictures = [draw_picture(rng, held_out=False) if picture else None for _ in range(4)]
    return packer.pack(chance("test", 0), list(zip(clips, pictures, strict=True)))


@pytest.mark.parametrize(("clip", "picture"), [(True, False), (False, True), (True, True)])
def test_only_answers_are_learned(packer, clip, picture):
    packed = pack(packer, clip=clip, picture=picture)
    for ids, learned in zip(packed.ids, packed.learned, strict=True):
        text = packer.tokenizer.decode(ids[learned])
        assert "USER" not in text
        assert "ASSISTANT" not in text
        assert "?" not in text
        assert text.count("</s>") >= 3
    assert not packed.learned[:, : packed.prefix].any()


def test_one_token_for_each_feature(packer):
    packed = pack(packer, clip=True, picture=True)
    image, video = packer.tokenizer.convert_tokens_to_ids(["<image>", "<video>"])
    assert (packed.ids == image).sum(1).tolist() == [16] * 4
    assert (packed.ids == video).sum(1).tolist() == [136] * 4


def test_conversations_see_the_media_and_themselves_only(packer):
    packed = pack(packer, clip=True, picture=False)
    allowed = packed.mask[0, 0] == 0
    places = packed.places[0]
    assert torch.equal(allowed, allowed.tril())
    for row in range(packed.prefix, len(places)):
        seen = allowed[row].nonzero().flatten()
        # A token sees as many tokens as stand before it in its own conversation.
        assert len(seen) == places[row] + 1 or places[row] == 0
