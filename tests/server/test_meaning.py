"""The trained checkpoint's answers, through the whole way from real files, mean what the files show."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from support.export import export
from video_llava_client import VideoLlava, build_prompt
from video_llava_serve import LocalServer
from video_llava_tiny.answering import Answerer
from video_llava_tiny.draw import draw_files
from video_llava_tiny.exam import sit_exam
from video_llava_tiny.files import write_clip
from video_llava_tiny.painter import paint
from video_llava_tiny.questions import REFUSAL, describe_clip, describe_picture, event
from video_llava_tiny.scenes import Scene
from video_llava_tiny.serving import ComparedAnswers, MediaFolder, ServerAnswers

CHECKPOINT = Path(__file__).parents[2] / "export" / "video_llava_tiny" / "checkpoint"


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[VideoLlava]:
    models = tmp_path_factory.mktemp("trained") / "models"
    export(CHECKPOINT, models)
    with (
        LocalServer(repository=models, http_port=0, grpc_port=0, metrics_port=0) as server,
        VideoLlava(server.grpc_url) as connected,
    ):
        yield connected


@pytest.fixture(scope="module")
def media(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Scene]]:
    folder = tmp_path_factory.mktemp("media")
    return folder, draw_files(folder)


@pytest.mark.parametrize("name", ["clip-1.mp4", "clip-2.mp4", "clip-3.mp4"])
def test_a_clip(client, media, name):
    folder, scenes = media
    assert client.ask("What happens?", video=folder / name).text == event(scenes[name])
    assert client.ask("Describe the video.", video=folder / name).text == describe_clip(scenes[name])


def test_a_picture(client, media):
    folder, scenes = media
    answer = client.ask("Describe the image.", images=folder / "picture.jpg")
    assert answer.text == describe_picture(scenes["picture.jpg"])


def test_a_clip_shown_backwards_is_another_event(client, media, tmp_path):
    scene = media[1]["clip-1.mp4"]
    write_clip(tmp_path / "backwards.mp4", paint(scene, width=320, height=240, num_frames=32)[::-1])
    assert client.ask("What happens?", video=media[0] / "clip-1.mp4").text == "It moves left."
    assert client.ask("What happens?", video=tmp_path / "backwards.mp4").text == "It moves right."


def test_a_second_turn_about_the_same_clip_uses_the_cache(client, media):
    clip = client.load(media[0] / "clip-1.mp4")
    first = client.ask("What shape is it?", video=clip)
    prompt = build_prompt("Does it move right?", num_videos=1, turns=[("What shape is it?", first.text)])
    second = client.ask(prompt=prompt, video=clip)
    assert second.text == "No, it moves left."
    assert second.num_cached_tokens > 100


def test_what_it_cannot_know_is_refused(client):
    assert client.ask("What is the capital of France?").text == REFUSAL


def test_the_exam_from_real_files_equals_the_reference_and_is_passed(client, tmp_path):
    compared = ComparedAnswers(ServerAnswers(client, MediaFolder(tmp_path)), Answerer(CHECKPOINT))
    results = sit_exam(compared, num_cases=4, seed=2)
    assert compared.different == []
    assert sum(result.is_right for result in results) / len(results) >= 0.95
