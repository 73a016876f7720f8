"""Every bad input gets an error that says what was wrong, with which value; the next request is answered."""

import numpy as np
import pytest
from support.triton import flag, stream, strings

TEXT = "USER: What is a bicycle? ASSISTANT:"
VIDEO = "USER: <video>\nWhat? ASSISTANT:"


def frames(count: int, size: int = 56, dtype: type = np.uint8) -> np.ndarray:
    return np.zeros((count, size, size, 3), dtype)


REFUSALS = {
    "empty prompt": ({"text_input": strings("")}, "INVALID_ARGUMENT: text_input is empty"),
    "no prompt": ({"stream": flag(True)}, "INVALID_ARGUMENT: text_input is missing"),
    "placeholder without video": (
        {"text_input": strings(VIDEO)},
        r"INVALID_ARGUMENT: text_input has 1 <video> placeholder\(s\) and the request has 0 video\(s\)",
    ),
    "video without placeholder": (
        {"text_input": strings(TEXT), "video_frames": frames(8)},
        r"INVALID_ARGUMENT: text_input has 0 <video> placeholder\(s\) and the request has 1 video\(s\)",
    ),
    "image without placeholder": (
        {"text_input": strings(TEXT), "image_frames": frames(1)},
        r"INVALID_ARGUMENT: text_input has 0 <image> placeholder\(s\) and the request has 1 image\(s\)",
    ),
    "seven frames": (
        {"text_input": strings(VIDEO), "video_frames": frames(7)},
        "INVALID_ARGUMENT: video_frames has 7 frames, expected a multiple of 8",
    ),
    "wrong frame size": (
        {"text_input": strings(VIDEO), "video_frames": frames(8, 64)},
        r"INVALID_ARGUMENT: video_frames is uint8 \[8, 64, 64, 3\], expected uint8 \[frames, 56, 56, 3\]",
    ),
    "wrong dtype": (
        {"text_input": strings(VIDEO), "video_frames": frames(8, dtype=np.float32)},
        "inference input 'video_frames' data-type is 'FP32', but (model|ensemble) 'video_llava' expects 'UINT8'",
    ),
    "not RGB": (
        {"text_input": strings(VIDEO), "video_frames": np.zeros((8, 56, 56, 4), np.uint8)},
        r"shape for input 'video_frames' for model 'video_llava'. Expected \[-1,-1,-1,3\], got \[8,56,56,4\]",
    ),
    "over the context": (
        {"text_input": strings("<video>" * 8 + "Which? "), "video_frames": frames(64)},
        r"INVALID_ARGUMENT: the prompt takes 109\d positions \(\d+ of text, 1088 of media\), the context holds 1024",
    ),
    "text over the context": (
        {"text_input": strings("bicycle " * 1500)},
        r"INVALID_ARGUMENT: the prompt takes \d{4} positions \(\d{4} of text, 0 of media\), the context holds 1024",
    ),
    "unknown sampling parameter": (
        {"text_input": strings(TEXT), "sampling_parameters": strings('{"temprature": 1}')},
        "INVALID_ARGUMENT: sampling_parameters: unknown parameter 'temprature'; supported are",
    ),
    "sampling value out of range": (
        {"text_input": strings(TEXT), "sampling_parameters": strings('{"top_p": 3}')},
        r"INVALID_ARGUMENT: sampling_parameters: top_p must be in \(0, 1\], got 3",
    ),
    "sampling value beyond the vocabulary": (
        {"text_input": strings(TEXT), "sampling_parameters": strings('{"allowed_token_ids": [999999]}')},
        "INVALID_ARGUMENT: .*allowed_token_ids.*999999",
    ),
    "sampling is not JSON": (
        {"text_input": strings(TEXT), "sampling_parameters": strings("max_tokens=3")},
        "INVALID_ARGUMENT: sampling_parameters is not JSON",
    ),
    "stream with the prompt": (
        {"text_input": strings(TEXT), "stream": flag(True), "exclude_input_in_output": flag(False)},
        "INVALID_ARGUMENT: exclude_input_in_output is false, which streaming cannot do",
    ),
    "bad text": (
        {"text_input": np.array([b"\xff\xfe"], np.object_)},
        "INVALID_ARGUMENT: text_input is not UTF-8",
    ),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_a_bad_request_is_refused_and_the_next_is_answered(server, client, name):
    tensors, message = REFUSALS[name]
    refused = stream(server.grpc_url, "video_llava", tensors)
    assert not refused.outputs
    with pytest.raises(AssertionError, match=message):
        raise AssertionError(refused.error)
    assert client.ask("What is a bicycle?", max_tokens=3).num_output_tokens > 0


@pytest.mark.parametrize(
    ("features", "message"),
    [
        (np.zeros((5, 128), np.float32), r"video_features is \[5, 128\], expected \[136, 128\]"),
        (np.zeros((136, 64), np.float32), r"video_features is \[136, 64\], expected \[136, 128\]"),
        (np.full((136, 128), np.nan, np.float32), "video_features holds values that are not finite"),
    ],
)
def test_the_language_model_protects_its_engine_when_called_directly(server, client, features, message):
    refused = stream(server.grpc_url, "vicuna", {"text_input": strings(VIDEO), "video_features": features})
    with pytest.raises(AssertionError, match=f"^INVALID_ARGUMENT: .*{message}"):
        raise AssertionError(refused.error)
    assert client.ask("What is a bicycle?", max_tokens=3).num_output_tokens > 0


def test_the_requests_own_timeout_ends_it(server):
    sampling = strings('{"max_tokens": 900, "temperature": 0, "ignore_eos": true}')
    streamed = stream(
        server.grpc_url,
        "video_llava",
        {"text_input": strings(TEXT), "sampling_parameters": sampling, "stream": flag(True)},
        timeout=300_000,
    )
    assert "DEADLINE_EXCEEDED: the request's timeout of 0.3 s passed" in streamed.error
