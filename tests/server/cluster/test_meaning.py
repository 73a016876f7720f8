"""The trained checkpoint's answers mean what real files show: file, client, proxy, server, text."""

from pathlib import Path

import pytest
from tiny.answering import Answerer
from tiny.draw import Drawings, draw_files
from tiny.exam import sit_exam
from tiny.files import write_clip
from tiny.painter import paint
from tiny.questions import REFUSAL, describe_clip, describe_picture, event
from tiny.serving import ComparedAnswers, MediaFolder, ServerAnswers
from video_llava_client import build_prompt


@pytest.fixture(scope="module")
def media(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Drawings]:
    folder = tmp_path_factory.mktemp("media")
    return folder, draw_files(folder)


@pytest.mark.parametrize("name", ["clip-1.mp4", "clip-2.mp4", "clip-3.mp4"])
def test_a_clip(client, media, name):
    folder, drawings = media
    assert client.ask("What happens?", video=folder / name).text == event(drawings.clips[name])
    assert client.ask("Describe the video.", video=folder / name).text == describe_clip(drawings.clips[name])


def test_a_picture(client, media):
    folder, drawings = media
    answer = client.ask("Describe the image.", images=folder / "picture.jpg")
    assert answer.text == describe_picture(drawings.picture)


def test_the_order_of_the_frames_matters(client, media, tmp_path):
    folder, drawings = media
    frames = paint(drawings.clips["clip-1.mp4"], width=320, height=240, num_frames=32)
    write_clip(tmp_path / "backwards.mp4", frames[::-1])
    write_clip(tmp_path / "first-frame.mp4", frames[:1] * 32)

    clips = (folder / "clip-1.mp4", tmp_path / "backwards.mp4", tmp_path / "first-frame.mp4")
    answers = [client.ask("What happens?", video=clip).text for clip in clips]

    assert answers == ["It moves left.", "It moves right.", "It stays still."]


def test_an_image_and_a_video_in_one_prompt(client, media):
    folder, drawings = media
    shown = {"images": folder / "picture.jpg", "video": folder / "clip-1.mp4"}
    of_image, of_video = (client.ask(f"In the {name}: What shape is it?", **shown).text for name in ("image", "video"))
    assert of_image == f"It is a {drawings.picture.shape}."
    assert of_video == f"It is a {drawings.clips['clip-1.mp4'].shape}."


def test_further_turns_about_the_same_clip_use_the_cache(client, media):
    clip = client.load(media[0] / "clip-1.mp4")
    scene = media[1].clips["clip-1.mp4"]
    turns: list[tuple[str, str]] = []
    for question, expected in (
        ("What shape is it?", f"It is a {scene.shape}."),
        ("Does it move right?", "No, it moves left."),
        ("And the color?", f"It is {scene.color}."),
    ):
        answer = client.ask(prompt=build_prompt(question, num_videos=1, turns=turns), video=clip)
        assert answer.text == expected
        assert not turns or answer.num_cached_tokens > 100
        turns.append((question, answer.text))


def test_what_it_cannot_know_is_refused(client):
    assert client.ask("What is the capital of France?").text == REFUSAL


def test_the_exam_from_real_files_equals_the_reference_and_is_passed(client, trained_checkpoint, tmp_path):
    compared = ComparedAnswers(ServerAnswers(client, MediaFolder(tmp_path)), Answerer(trained_checkpoint))
    results = sit_exam(compared, num_cases=2, seed=2)
    assert compared.different == []
    of_one_shape = [result.is_right for result in results if not result.group.startswith("two")]
    assert sum(of_one_shape) / len(of_one_shape) >= 0.97


def test_two_shapes(client, media):
    """What is where; which of them is red or moves, it has not learned."""
    folder, drawings = media
    for side, scene in (("left", drawings.pair.left), ("right", drawings.pair.right)):
        answer = client.ask(f"What is on the {side}?", video=folder / "pair.mp4").text
        assert answer.removeprefix("It is a ").removeprefix("It is an ") == f"{scene.color} {scene.shape}."
