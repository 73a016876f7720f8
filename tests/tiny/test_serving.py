"""The exam's way through a server, with a stand-in for the server."""

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image

from tiny.answering import Answerer, Prompt
from tiny.serving import ComparedAnswers, MediaFolder, ServerAnswers

CLIP = [Image.new("RGB", (64, 48), (30 * number, 0, 0)) for number in range(8)]
PICTURE = Image.new("RGB", (64, 48), "green")


class Echo(Answerer):
    """A client and a reference in one: answers with the prompt, and remembers the media."""

    def __init__(self, ending: str = "") -> None:
        self.ending = ending
        self.asked: list[dict[str, Any]] = []
        self.prompts: list[Prompt] = []

    def ask(self, **request: Any) -> SimpleNamespace:
        self.asked.append(request)
        return SimpleNamespace(text=f" {request['prompt']} ")

    def answer(self, prompts: Sequence[Prompt]) -> list[str]:
        self.prompts += prompts
        return [prompt.text + self.ending for prompt in prompts]


@pytest.fixture
def client():
    return Echo()


@pytest.fixture
def server(client, tmp_path):
    return ServerAnswers(client, MediaFolder(tmp_path))


def test_media_become_files_once(server, client, tmp_path):
    prompts = [Prompt("one", clip=CLIP), Prompt("two", clip=CLIP, picture=PICTURE), Prompt("three")]

    assert server.answer(prompts) == ["one", "two", "three"]

    (mp4,), (jpg,) = list(tmp_path.glob("*.mp4")), list(tmp_path.glob("*.jpg"))
    asked = {request["prompt"]: (request["video"], request["images"]) for request in client.asked}
    assert asked == {"one": (mp4, []), "two": (mp4, [jpg]), "three": (None, [])}
    with av.open(str(mp4)) as container:
        assert sum(1 for _ in container.decode(video=0)) == 32


def test_the_reference_gets_what_the_files_hold(server):
    reference = Echo()
    compared = ComparedAnswers(server, reference)

    assert compared.answer([Prompt("one", clip=CLIP), Prompt("two", picture=PICTURE)]) == ["one", "two"]

    clip, picture = reference.prompts[0].clip, reference.prompts[1].picture
    assert clip
    assert picture
    assert [round(np.asarray(frame)[9, 9, 0] / 30) for frame in clip] == list(range(8))
    assert picture.size == PICTURE.size
    assert (compared.num_compared, compared.different) == (2, [])


def test_what_differs_is_kept(server):
    compared = ComparedAnswers(server, Echo(ending="!"))
    compared.answer([Prompt("one"), Prompt("two")])
    assert compared.different == [("one", "one", "one!"), ("two", "two", "two!")]
