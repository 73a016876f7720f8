"""Requests that the random checkpoint's server must refuse, and what it says."""

import numpy as np

from support.triton import flag, strings

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
    "an adapter that the server does not have": (
        {"text_input": strings(TEXT), "sampling_parameters": strings('{"lora_name": "red"}')},
        "INVALID_ARGUMENT: sampling_parameters: lora_name is 'red', there is no such adapter: the server has none",
    ),
    "sampling value out of range": (
        {"text_input": strings(TEXT), "sampling_parameters": strings('{"top_p": 3}')},
        r"INVALID_ARGUMENT: sampling_parameters: top_p must be in \(0, 1\], got 3",
    ),
    "sampling value beyond the vocabulary": (
        {"text_input": strings(TEXT), "sampling_parameters": strings('{"allowed_token_ids": [999999]}')},
        "INVALID_ARGUMENT: .*allowed_token_ids.*999999",
    ),
    "schema without end": (
        {
            "text_input": strings(TEXT),
            "sampling_parameters": strings('{"structured_outputs": {"json": {"type": "array", "minItems": 99999999}}}'),
        },
        "INVALID_ARGUMENT: .*minItems is greater than",
    ),
    "text that would take the tokenizer long": (
        {"text_input": strings("bicycle" * 10_000)},
        r"INVALID_ARGUMENT: text_input has 70000 characters, in the context of 1024 tokens fit at most \d+",
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
