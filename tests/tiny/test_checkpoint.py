"""The committed checkpoint answers, from pixels of another rasteriser and from an encoded file."""

import json
import random

import pytest
from PIL import Image
from video_llava_client import Clip, build_prompt

from tiny.answering import Answerer, Prompt
from tiny.files import write_clip
from tiny.model import CHECKPOINT, CONFIG, IMAGE_SIZE
from tiny.painter import paint
from tiny.questions import event
from tiny.scenes import MOTIONS, NUM_FRAMES, draw_clip, draw_picture

HEAD_SIZES_OF_VLLM_ON_CPU = (32, 64, 80, 96, 112, 128)


@pytest.fixture(scope="module")
def answerer():
    return Answerer(CHECKPOINT)


def ask_clips(answerer, question: str, clips) -> list[str]:
    return answerer.answer([Prompt(build_prompt(question, num_videos=1), clip=clip) for clip in clips])


def test_it_tells_what_happens(answerer):
    rng = random.Random(11)
    scenes = [draw_clip(rng, held_out=True, motion=motion) for motion in MOTIONS]
    clips = [paint(scene, width=320, height=240, num_frames=NUM_FRAMES) for scene in scenes]
    answers = ask_clips(answerer, "What happens?", clips)
    assert sum(answer == event(scene) for answer, scene in zip(answers, scenes, strict=True)) >= len(MOTIONS) - 1


def test_backwards_it_tells_the_opposite(answerer):
    scene = draw_clip(random.Random(12), held_out=True, motion="left")
    frames = paint(scene, width=224, height=224, num_frames=NUM_FRAMES)
    answers = ask_clips(answerer, "What happens?", [frames, frames[::-1], frames[:1] * NUM_FRAMES])
    assert answers == ["It moves left.", "It moves right.", "It stays still."]


def test_it_tells_what_a_picture_shows(answerer):
    rng = random.Random(13)
    scenes = [draw_picture(rng, held_out=True) for _ in range(8)]
    prompt = build_prompt("What shape is it?", num_images=1)
    pictures = [paint(scene, width=240, height=240, num_frames=1)[0] for scene in scenes]
    answers = answerer.answer([Prompt(prompt, picture=picture) for picture in pictures])
    assert sum(answer == f"It is a {scene.shape}." for answer, scene in zip(answers, scenes, strict=True)) >= 7


def test_it_understands_an_encoded_file(answerer, tmp_path):
    scene = draw_clip(random.Random(14), held_out=True, motion="up")
    write_clip(tmp_path / "clip.mp4", paint(scene, width=320, height=240, num_frames=32))
    frames = [Image.fromarray(frame) for frame in Clip.from_file(tmp_path / "clip.mp4", size=IMAGE_SIZE).frames]
    answers = [ask_clips(answerer, question, [frames])[0] for question in ("What happens?", "What shape is it?")]
    assert answers == ["It moves up.", f"It is a {scene.shape}."]


def test_it_fits_the_engine_and_the_repository():
    text = json.loads((CHECKPOINT / "config.json").read_text())["text_config"]
    assert text["hidden_size"] // text["num_attention_heads"] in HEAD_SIZES_OF_VLLM_ON_CPU
    assert sum(path.stat().st_size for path in CHECKPOINT.iterdir()) < 10_000_000
    assert CONFIG.video_seq_length == NUM_FRAMES * (CONFIG.image_seq_length + 1)
