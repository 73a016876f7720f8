"""With `tensor_parallel_size` in model.json two processes share the language model, and the tokens stay the same."""

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from video_llava_client import VideoLlava
from video_llava_serve import LocalServer

MAX_TOKENS = 24


@pytest.fixture(scope="module")
def parallel_server(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalServer]:
    folder = tmp_path_factory.mktemp("parallel") / "models"
    shutil.copytree(repository, folder)
    arguments = folder / "vicuna" / "1" / "model.json"
    told = json.loads(arguments.read_text(encoding="utf-8")) | {"tensor_parallel_size": 2}
    arguments.write_text(json.dumps(told), encoding="utf-8")
    with LocalServer(repository=folder, http_port=0, grpc_port=0, metrics_port=0) as running:
        yield running
    assert running.stopped_cleanly


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="each of the two processes wants a core")
def test_two_processes_give_the_references_tokens(parallel_server, reference, clip_path, card_frames):
    started = psutil.Process(parallel_server.pid).children(recursive=True)
    assert sum("VLLM::Worker" in " ".join(process.cmdline()) for process in started) == 2
    with VideoLlava(parallel_server.grpc_url, timeout_seconds=120) as client:
        of_text = client.ask("What is a bicycle?", max_tokens=MAX_TOKENS)
        of_video = client.ask("What happens?", video=clip_path, max_tokens=MAX_TOKENS)
    text, video = "USER: What is a bicycle? ASSISTANT:", "USER: <video>\nWhat happens? ASSISTANT:"
    assert list(of_text.token_ids) == reference.answer(text, max_new_tokens=MAX_TOKENS).token_ids
    want = reference.answer(video, videos=[card_frames], max_new_tokens=MAX_TOKENS)
    assert list(of_video.token_ids) == want.token_ids
