import random

import pytest
from video_llava_client.prompt import build_prompt

from tiny.conversations import draw_conversation
from tiny.scenes import draw_clip, draw_picture


@pytest.mark.parametrize(("num_images", "num_videos"), [(0, 1), (1, 0), (1, 1)])
def test_the_text_is_the_prompt_of_the_client(num_images, num_videos):
    rng = random.Random(7)
    clip, picture = draw_clip(rng, held_out=False), draw_picture(rng, held_out=False)

    conversation = draw_conversation(
        rng, clip=clip if num_videos else None, picture=picture if num_images else None, num_turns=3
    )

    first, second, third = conversation.turns
    assert conversation.prompt(2) == build_prompt(
        third.text,
        num_images=num_images,
        num_videos=num_videos,
        turns=[(first.text, first.answer), (second.text, second.answer)],
    )
    assert conversation.text == f"{conversation.prompt(2)} {third.answer}</s>"


def test_with_two_media_the_question_says_which_one_it_is_about():
    rng = random.Random(7)
    for _ in range(200):
        clip, picture = draw_clip(rng, held_out=False), draw_picture(rng, held_out=False)
        (turn,) = draw_conversation(rng, clip=clip, picture=picture).turns
        assert turn.kind == "refusal" or any(word in turn.text for word in ("video", "image"))
