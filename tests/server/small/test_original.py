"""A checkpoint of the original layout, served: the tokens of the code that trained it (`support.original_code`)."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image
from support.export import ENGINE_ARGUMENTS, FREE_PORTS, export, make_random_checkpoint
from support.original_code import ANSWERS, NUM_TOKENS, picture
from video_llava_client import VideoLlava
from video_llava_serve import LocalServer


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_random_checkpoint(tmp_path_factory.mktemp("original"), "--layout", "original")


@pytest.fixture(scope="module")
def server(original: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalServer]:
    model = export(original, tmp_path_factory.mktemp("models"))
    with LocalServer(model=model, engine_arguments=ENGINE_ARGUMENTS, **FREE_PORTS) as running:
        yield running


@pytest.fixture(scope="module")
def client(server: LocalServer) -> Iterator[VideoLlava]:
    with VideoLlava(server.grpc_url, timeout_seconds=120) as connected:
        yield connected


def media_of(case):
    """What a caller gives for the case: frames are chosen and resized by the client."""
    pixels = picture(case["seed"], (*case["shape"], 3))
    return {"video": pixels} if pixels.ndim == 4 else {"images": pixels}


@pytest.mark.parametrize("case", ANSWERS["cases"], ids=lambda case: case["question"])
def test_tokens_are_those_of_the_original_code(client, case):
    answer = client.ask(case["question"], **media_of(case), max_tokens=NUM_TOKENS)
    assert list(answer.token_ids) == case["token_ids"]


def test_a_mix_and_a_conversation_have_them_too(client):
    video, image = picture(210, (8, 224, 224, 3)), picture(311, (240, 320, 3))
    mixed = client.ask(ANSWERS["mixed"]["question"], video=video, images=image, max_tokens=NUM_TOKENS)
    assert list(mixed.token_ids) == ANSWERS["mixed"]["token_ids"]
    turns = ANSWERS["turns"]
    chat = client.chat(video=video)
    chat.history.turns = ((turns["questions"][0], turns["answer"]),)
    assert list(chat.ask(turns["questions"][1], max_tokens=NUM_TOKENS).token_ids) == turns["token_ids"]


def test_penalties_and_constraints_work_without_rows_for_the_placeholders(client):
    """The engine knows no such ids."""
    case = ANSWERS["cases"][0]
    sampling = {"repetition_penalty": 1.3, "presence_penalty": 0.5}
    assert client.ask(case["question"], **media_of(case), max_tokens=4, sampling=sampling).num_output_tokens == 4
    choices = {"structured_outputs": {"choice": ["provided", "license"]}}
    assert client.ask(case["question"], **media_of(case), sampling=choices).text in ("provided", "license")


def test_verify_knows_the_layout(original, server, clip_path, tmp_path):
    """Its reference takes pixels as floats: the difference is what eight bits cost."""
    Image.fromarray(picture(1, (90, 120, 3))).save(tmp_path / "picture.png")
    command = [
        *(str(Path(sys.executable).with_name("video-llava-export")), "verify", str(original)),
        *(str(clip_path), str(tmp_path / "picture.png"), "--server", server.grpc_url),
        *("--question", "What happens?", "--max-tokens", "8", "--json", str(tmp_path / "parity.json")),
    ]
    one_thread = os.environ | {"OMP_NUM_THREADS": "1"}  # the engine runs at the same time
    done = subprocess.run(command, env=one_thread, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "parity.json").read_text(encoding="utf-8"))
    assert report["holds"]
    for case in report["comparisons"]:
        assert case["num_equal"] > 0
        assert 1e-5 < case["feature_error"] < 1e-2
