"""Values become bytes that tritonclient reads, and the other way round."""

import numpy as np
import pytest
from tritonclient.utils import deserialize_bytes_tensor, serialize_byte_tensor
from video_llava_client.tensors import INPUTS_BY_NAME, OUTPUTS_BY_NAME, RawTensor, TensorSpec, decode, encode

FRAMES = INPUTS_BY_NAME["video_frames"]


def test_a_text_is_encoded_as_tritonclient_reads_it():
    tensor = encode(INPUTS_BY_NAME["text_input"], "Größe: <video>")
    assert tensor.shape == (1,)
    assert deserialize_bytes_tensor(tensor.data)[0].decode() == "Größe: <video>"


def test_pixels_keep_their_order_whatever_their_strides():
    pixels = np.arange(2 * 4 * 5 * 3, dtype=np.uint8).reshape(2, 4, 5, 3)[:, ::-1]
    tensor = encode(FRAMES, pixels)
    assert np.array_equal(np.frombuffer(tensor.data, np.uint8).reshape(tensor.shape), pixels)
    assert repr(tensor) == "RawTensor('video_frames', UINT8[2, 4, 5, 3], 120 bytes)"


def test_what_cannot_be_encoded():
    with pytest.raises(TypeError, match="Cannot cast array data"):
        encode(FRAMES, np.zeros((8, 4, 4, 3), np.float32))
    with pytest.raises(ValueError, match=r"video_frames: expected shape .*, got \(8, 4, 4\)"):
        encode(FRAMES, np.zeros((8, 4, 4), np.uint8))
    with pytest.raises(ValueError, match="unknown dtype 'FP12'"):
        TensorSpec("x", "FP12", (1,))


def test_texts_are_decoded_as_tritonclient_writes_them():
    texts = np.array([b"", "größer".encode()], np.object_)
    tensor = RawTensor(OUTPUTS_BY_NAME["text_output"], (2,), serialize_byte_tensor(texts).item())
    assert decode(tensor) == ["", "größer"]


@pytest.mark.parametrize(("name", "dtype"), [("num_output_tokens", "<u4"), ("cumulative_logprob", "<f4")])
def test_numbers_are_decoded(name, dtype):
    assert decode(RawTensor(OUTPUTS_BY_NAME[name], (2,), np.array([7, 2], dtype).tobytes())) == [7, 2]


@pytest.mark.parametrize("data", [b"\x05\0\0\0abc", b"\x03\0"])
def test_a_cut_off_text_is_noticed(data):
    with pytest.raises(ValueError, match="cut off at byte"):
        decode(RawTensor(OUTPUTS_BY_NAME["text_output"], (1,), data))
