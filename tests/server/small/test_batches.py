"""Requests share runs of the encoder; processes share the language model."""

import numpy as np
import pytest
from support.small_server import TENSOR_PARALLEL_SIZE
from support.triton import stream_together, strings
from video_llava_client import VideoLlava, build_prompt

MAX_TOKENS = 48


def test_triton_batches_concurrent_requests_to_the_encoder(small):
    """By Triton's own count. The local stand-in for Triton's ONNX Runtime runs each request of a batch by itself."""
    draw = np.random.default_rng(100)
    request = {
        "text_input": strings(build_prompt("What?", num_videos=1)),
        "sampling_parameters": strings('{"max_tokens": 1}'),
    }
    requests = [request | {"video_frames": draw.integers(0, 256, (8, 56, 56, 3), np.uint8)} for _ in range(16)]
    url, before = small.url, small.metrics()
    answers = stream_together(url, "video_llava", requests)
    after = small.metrics()

    assert [(answer.error, answer.num_final) for answer in answers] == [("", 1)] * 16

    def grown(name: str) -> float:
        return after[f"{name}{{video_encoder}}"] - before[f"{name}{{video_encoder}}"]

    assert grown("nv_inference_count") == 16
    assert grown("nv_inference_exec_count") < 16


@pytest.mark.skipif(TENSOR_PARALLEL_SIZE < 2, reason="each of the two processes wants a core")
def test_two_processes_give_the_references_tokens(small, reference, clip_path, card_frames):
    """With `tensor_parallel_size`; of a prompt that is prefilled in pieces, too."""
    with VideoLlava(small.url, timeout_seconds=120) as connected:
        of_text = connected.ask("What is a bicycle?", max_tokens=MAX_TOKENS)
        of_video = connected.ask("What happens?", video=clip_path, max_tokens=MAX_TOKENS)
    commands = [" ".join(process.cmdline()) for process in small.launcher.descendants()]
    assert sum("VLLM::Worker" in command for command in commands) == 2
    text, video = build_prompt("What is a bicycle?"), build_prompt("What happens?", num_videos=1)
    assert list(of_text.token_ids) == reference.answer(text, max_new_tokens=MAX_TOKENS).token_ids
    want = reference.answer(video, videos=[card_frames], max_new_tokens=MAX_TOKENS)
    assert list(of_video.token_ids) == want.token_ids
