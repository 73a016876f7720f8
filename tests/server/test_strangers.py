"""What a client sends to the models behind the ensemble harms nobody else's requests. Plain gRPC, as any client can."""

import json
import time

import numpy as np
import pytest
from support.triton import flag, grpcclient, metrics, store_features, stream, strings, to_input

MAX_REQUESTS = 256
TEXT = {"text_input": strings("USER: What? ASSISTANT:"), "sampling_parameters": strings('{"max_tokens": 3}')}
VIDEO = "USER: <video>\nWhat? ASSISTANT:"
ENCODED = "video_llava:encode_seconds_count{vicuna}"
NOT_OURS = "INVALID_ARGUMENT: ticket is not one of this server's"


@pytest.fixture
def plain(server):
    with grpcclient.InferenceServerClient(server.grpc_url) as connected:
        yield connected


@pytest.fixture
def draw():
    return np.random.default_rng(20_261_127)


@pytest.fixture
def limits(plain):
    return json.loads(infer(plain, "intake", {}, "limits").item())


def infer(plain, model, tensors, output):
    inputs = [to_input(name, array) for name, array in tensors.items()]
    return plain.infer(model, inputs, outputs=[grpcclient.InferRequestedOutput(output)]).as_numpy(output)


def frames(draw, limits, *shape):
    size = limits["image_size"]
    return draw.integers(0, 256, (*shape, size, size, 3), np.uint8)


def ask(server, **tensors):
    """Ask the ensemble; return the error."""
    streamed = stream(server.grpc_url, "video_llava", TEXT | tensors)
    assert streamed.error or streamed.outputs
    return streamed.error


def take_ticket(plain, **tensors):
    return infer(plain, "intake", {"text_input": TEXT["text_input"]} | tensors, "ticket")


def test_calls_of_intake_alone_do_not_close_the_server(server, plain, draw, limits, wait_for):
    image = {"text_input": strings("USER: <image> What? ASSISTANT:"), "image_frames": frames(draw, limits, 1)}
    for _ in range(MAX_REQUESTS):
        take_ticket(plain, **image)
    # More than places: calls like these and requests to the ensemble then get places by chance, for a short time.
    wait_for(lambda: not ask(server, **image | {"image_frames": frames(draw, limits, 1)}))
    errors = [ask(server, **image | {"image_frames": frames(draw, limits, 1)}) for _ in range(5)]
    assert errors == [""] * 5
    assert ask(server) == ""


def test_a_ticket_is_good_once_and_forged_ones_are_refused(server, plain, wait_for):
    ticket = take_ticket(plain)
    time.sleep(0.5)  # the counters follow by a tenth of a second
    before = metrics(server.metrics_url)[ENCODED]
    assert stream(server.grpc_url, "vicuna", TEXT | {"ticket": ticket}).error == ""
    for forged in (ticket, strings(""), strings("00" * 34), strings("ff" + ticket.item().decode()[2:])):
        assert stream(server.grpc_url, "vicuna", TEXT | {"ticket": forged}).error.startswith(NOT_OURS)
    assert ask(server) == ""
    wait_for(lambda: metrics(server.metrics_url)[ENCODED] >= before + 2)
    time.sleep(0.5)
    assert metrics(server.metrics_url)[ENCODED] == before + 2


@pytest.mark.parametrize("batch", [1, 8])
def test_a_batch_without_frames_does_not_spoil_prompts_without_media(server, plain, draw, limits, batch):
    for medium in ("video", "image"):
        infer(plain, f"{medium}_encoder", {"frames": frames(draw, limits, batch, 0)}, "features")
        nothing = {"frames": frames(draw, limits, 0), "nonce": strings("")}
        assert infer(plain, f"{medium}_features", nothing, "reference").item() == b""
    assert ask(server) == ""


def test_frames_of_another_shape_do_not_spoil_the_same_bytes_in_a_request(server, plain, draw, limits):
    """The response cache compares bytes, not shapes."""
    videos = frames(draw, limits, 2, limits["num_frames"])
    assert len(infer(plain, "video_encoder", {"frames": videos}, "features")) == 2
    *_, height, width, colors = videos.shape
    for shape in (videos.shape, (-1, height // 2, width * 2, colors)):
        with pytest.raises(grpcclient.InferenceServerException):
            infer(plain, "video_features", {"frames": videos.reshape(shape), "nonce": strings("")}, "reference")
    together = {"video_frames": videos.reshape(-1, *videos.shape[2:])}
    assert ask(server, text_input=strings("USER: <video> <video> What? ASSISTANT:"), **together) == ""


def test_features_that_a_client_has_made_are_nobody_elses(server, plain, draw, limits):
    video = {"video_frames": frames(draw, limits, limits["num_frames"]), "text_input": strings(VIDEO)}
    answer = stream(server.grpc_url, "video_llava", TEXT | video).text
    known = infer(plain, "video_features", {"frames": video["video_frames"], "nonce": strings("mine")}, "reference")
    rows = limits["num_frames"] * limits["tokens_per_frame"]
    own = store_features(server.grpc_url, draw.standard_normal((rows, 128), np.float32))
    ticket = take_ticket(plain, **video)
    for reference, expected in ((known, True), (own, False)):
        asked = {"text_input": strings(VIDEO), "video_features": reference, "ticket": ticket}
        streamed = stream(server.grpc_url, "vicuna", TEXT | asked)
        assert (streamed.text.removeprefix(VIDEO) == answer.removeprefix(VIDEO)) == expected
        ticket = take_ticket(plain, **video)
    assert stream(server.grpc_url, "video_llava", TEXT | video).text == answer


def test_a_reference_cannot_be_made_up(server, plain, draw, limits):
    video = {"frames": frames(draw, limits, limits["num_frames"]), "nonce": strings("mine")}
    reference = infer(plain, "video_features", video, "reference").item().decode()
    for forged in ("zz", "00" * (len(reference) // 2), "ff" + reference[2:], reference[:-2]):
        asked = TEXT | {"text_input": strings(VIDEO), "video_features": strings(forged)}
        assert stream(server.grpc_url, "vicuna", asked).error.startswith(
            "INVALID_ARGUMENT: video_features is no reference of this server's"
        )
    assert ask(server) == ""


def test_ids_of_generations_cannot_be_guessed(server, client):
    sampling = {"ignore_eos": True}
    with client.stream("What happens?", max_tokens=40, sampling=sampling) as answer:
        next(answer)
        for number in range(200):
            assert stream(server.grpc_url, "vicuna", {"stop": strings(f"request-{number}")}).error == ""
        assert sum(delta.num_output_tokens for delta in answer) == 39
    direct = TEXT | {"stream": flag(True)}
    ids = {stream(server.grpc_url, "vicuna", direct).outputs[0]["generation_id"].item() for _ in range(2)}
    assert len(ids) == 2
    assert all(len(each.rpartition(b"-")[2]) == 32 for each in ids)


def test_the_relay_called_directly_passes_on_what_it_is_given_and_no_more(server):
    own = {"generation_id": strings("request-0"), "text_output": strings("mine")}
    assert stream(server.grpc_url, "relay", own).text == "mine"
    broken = own | {"error": np.array([b"\xff"], np.object_)}
    assert "INTERNAL: " in stream(server.grpc_url, "relay", broken).error
    assert ask(server) == ""
