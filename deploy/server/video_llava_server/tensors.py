"""The tensors of a request and of its responses, each named once.

The config.pbtxt files list them again for Triton and for operators; tests/deploy/server/test_configs.py holds them
equal to these.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from .errors import InvalidArgument

FRAMES = ("video_frames", "image_frames")
"""UINT8 [frames, H, W, 3]: what the ensemble takes"""
NONCES = ("video_nonce", "image_nonce")
"""STRING [1]: goes with the frames to the response cache (known_frames.py)"""
FEATURES = ("video_features", "image_features")
"""STRING [1]: a reference to what the encoders make of it (feature_store.py)"""
SAMPLING = "sampling_parameters"
"""STRING [1]: JSON"""
FLAGS = ("stream", "exclude_input_in_output")
"""BOOL [1]"""

OUTPUTS: Mapping[str, str] = {
    "text_output": "TYPE_STRING",
    "finish_reason": "TYPE_STRING",
    "cumulative_logprob": "TYPE_FP32",
    "logprobs": "TYPE_STRING",
    "num_input_tokens": "TYPE_UINT32",
    "num_output_tokens": "TYPE_UINT32",
    "token_ids": "TYPE_STRING",
    "num_cached_tokens": "TYPE_UINT32",
    "stage_seconds": "TYPE_STRING",
    "server_load": "TYPE_STRING",
}
"""What a caller can ask for, with Triton's types; `text_output` always comes."""

RETURN_FLAGS = {f"return_{name}": name for name in OUTPUTS if name != "text_output"}
"""The BOOL [1] input that asks for each optional output."""


def strings(values: Sequence[str]) -> np.ndarray:
    """Make a STRING tensor, shape = (len(values),)."""
    return np.array([value.encode() for value in values], np.object_)


def element(tensors: Mapping[str, np.ndarray], name: str, kind: type) -> Any:
    """Return the one element of a tensor. Raises InvalidArgument.

    Triton compares a request with config.pbtxt alone, which may have been edited.
    """
    if name not in tensors:
        raise InvalidArgument(f"{name} is missing: send one element of {kind.__name__}")
    tensor = tensors[name]
    if tensor.size != 1 or not isinstance(tensor.flat[0], kind):
        raise InvalidArgument(f"{name} is {tensor.dtype} {list(tensor.shape)}, expected one element of {kind.__name__}")
    return tensor.flat[0]


def flag(tensors: Mapping[str, np.ndarray], name: str, *, default: bool) -> bool:
    """Return the value of an optional BOOL [1]. Raises InvalidArgument."""
    return bool(element(tensors, name, np.bool_)) if name in tensors else default


def text(tensors: Mapping[str, np.ndarray], name: str) -> str:
    """Return the value of a STRING [1]. Raises InvalidArgument where it is missing or not UTF-8."""
    try:
        return element(tensors, name, bytes).decode("utf-8")
    except UnicodeDecodeError as exc:
        raise InvalidArgument(f"{name} is not UTF-8 text: {exc}") from exc
