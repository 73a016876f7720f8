"""A repeated video skips the encoder and most of its prefill."""

import numpy as np
from support.triton import flag, metrics, stream, strings

VIDEO = "USER: <video>\nWhat happens? ASSISTANT:"


def video_request(seed: int, *, size: int = 56) -> dict[str, np.ndarray]:
    return {
        "text_input": strings(VIDEO),
        "video_frames": np.random.default_rng(seed).integers(0, 256, (8, size, size, 3), np.uint8),
        "sampling_parameters": strings('{"max_tokens": 16, "temperature": 0}'),
        "stream": flag(True),
    }


def test_a_repeated_video_skips_the_encoder_and_its_prefill(server, client, clip_path):
    first = client.ask("What happens?", video=clip_path, max_tokens=4)
    before = metrics(server.metrics_url)
    again = client.ask("And how many?", video=clip_path, max_tokens=4)
    after = metrics(server.metrics_url)

    hits = "nv_cache_num_hits_per_model{video_features}"
    assert after[hits] - before[hits] == 1
    executions = "nv_inference_exec_count{video_encoder}"
    assert after[executions] == before[executions]
    # All of the video but what shares its last block with the question.
    assert again.num_cached_tokens >= 8 * 17 - 16
    assert again.num_input_tokens > again.num_cached_tokens
    assert first.num_input_tokens > 8 * 17


def test_the_engines_counters_show_the_prefix_cache(server, client, clip_path, wait_for):
    client.ask("What happens?", video=clip_path, max_tokens=4)
    before = metrics(server.metrics_url)
    cached = client.ask("What happens?", video=clip_path, max_tokens=4).num_cached_tokens
    assert cached > 0
    hits = "vllm:prefix_cache_hits_total{vicuna}"
    wait_for(lambda: metrics(server.metrics_url)[hits] - before[hits] >= cached)


def test_other_pixels_are_not_taken_for_a_known_video(server, reference):
    """Two videos that differ in one frame, asked one after the other, get each its own answer."""
    tensors = video_request(200) | {"return_token_ids": flag(True), "stream": flag(False)}
    other = tensors | {"video_frames": tensors["video_frames"].copy()}
    other["video_frames"][7] = 255 - other["video_frames"][7]
    for request in (tensors, other):
        streamed = stream(server.grpc_url, "video_llava", request)
        want = reference.answer(VIDEO, videos=[request["video_frames"]], max_new_tokens=16)
        assert streamed.outputs[0]["token_ids"][0].decode() == str(want.token_ids)
    assert stream(server.grpc_url, "video_llava", tensors).num_final == 1


def test_media_that_are_absent_log_no_error(server, client, clip_path):
    client.ask("What happens?", video=clip_path, max_tokens=2)
    client.ask("What is a bicycle?", max_tokens=2)
    client.ask("What is a bicycle?", max_tokens=2)
    log = server.log_path.read_text(encoding="utf-8", errors="replace")
    assert "Failed to insert" not in log
