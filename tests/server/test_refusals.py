"""Every bad input gets an error that says what was wrong, with which value; the next request is answered."""

import numpy as np
import pytest
from support.refusals import REFUSALS, TEXT, VIDEO
from support.triton import flag, store_features, stream, strings


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
        (np.ones((5, 128), np.float32), r"video_features is \[5, 128\], expected \[136, 128\]"),
        (np.zeros((136, 64), np.float32), r"video_features is \[136, 64\], expected \[136, 128\]"),
        (np.full((136, 128), np.nan, np.float32), "video_features holds values that are not finite"),
    ],
)
def test_the_language_model_protects_its_engine_when_called_directly(server, client, features, message):
    reference = store_features(server.grpc_url, features)
    refused = stream(server.grpc_url, "vicuna", {"text_input": strings(VIDEO), "video_features": reference})
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
