import json

import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers

FRAMES = 2
SIZE = 28


@pytest.fixture(scope="module")
def media():
    return prompt_checks


@pytest.fixture(scope="module")
def intake(media):
    words = ["[UNK]", "USER:", "What?", "ASSISTANT:", "<image>", "<video>"]
    tokenizer = Tokenizer(models.WordLevel({word: number for number, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()  # pyright: ignore[reportAttributeAccessIssue]
    limits = media.Limits(
        image_size=SIZE,
        num_frames=FRAMES,
        tokens_per_frame=5,
        tokens_per_image=4,
        image_token="<image>",
        image_token_id=4,
        video_token="<video>",
        video_token_id=5,
        max_model_len=25,
    )
    return media.Intake(limits, tokenizer)


def frames(count: int, size: int = SIZE) -> np.ndarray:
    return np.zeros((count, size, size, 3), np.uint8)


def test_absent_media_become_zero_frames(intake):
    videos, images = intake.check("USER: What? ASSISTANT:", None, None)
    assert videos.shape == images.shape == (0, SIZE, SIZE, 3)


def test_media_pass_as_they_are(intake):
    sent = frames(FRAMES), frames(1)
    videos, images = intake.check("USER: <image> <video> What? ASSISTANT:", *sent)
    assert videos is sent[0]
    assert images is sent[1]


@pytest.mark.parametrize(
    ("text", "videos", "images", "message"),
    [
        ("  ", None, None, "INVALID_ARGUMENT: text_input is empty"),
        ("What? " * 50, None, None, "has 300 characters, in the context of 25 tokens fit at most 250: shorten"),
        ("<video>", None, None, r"has 1 <video> placeholder\(s\) and the request has 0 video\(s\)"),
        ("<video>", frames(2 * FRAMES), None, r"has 1 <video> placeholder\(s\) and the request has 2 video\(s\)"),
        ("What?", None, frames(1), r"has 0 <image> placeholder\(s\) and the request has 1 image\(s\)"),
        ("<video>", frames(FRAMES + 1), None, "video_frames has 3 frames, expected a multiple of 2"),
        ("<video>", frames(FRAMES, 56), None, r"is uint8 \[2, 56, 56, 3\], expected uint8 \[frames, 28, 28, 3\]"),
        (
            "<video> <video> <image> What?",
            frames(2 * FRAMES),
            frames(1),
            r"takes 25 positions \(1 of text, 24 of media\)",
        ),
    ],
)
def test_refusals_name_the_values(intake, media, text, videos, images, message):
    with pytest.raises(media.InvalidArgument, match=message):
        intake.check(text, videos, images)


def test_the_engines_arguments_bound_the_context(media, tmp_path):
    (tmp_path / "vicuna" / "1").mkdir(parents=True)
    (tmp_path / "vicuna" / "1" / "model.json").write_text('{"max_model_len": 99}')
    facts = dict.fromkeys(media.Limits.__dataclass_fields__, 1) | {"max_position_embeddings": 4096}
    (tmp_path / "manifest.json").write_text(json.dumps(facts))
    assert media.read_limits(tmp_path).max_model_len == 99


def test_without_an_exported_model_the_message_says_what_to_run(media, tmp_path):
    with pytest.raises(FileNotFoundError, match="run video-llava-export CHECKPOINT --into"):
        media.read_limits(tmp_path)
