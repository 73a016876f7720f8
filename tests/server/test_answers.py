"""Streaming and not, through the client, Triton's own client and HTTP."""

import json
import urllib.request

import numpy as np
import pytest
from support.triton import flag, stream, strings
from video_llava_client.tensors import OUTPUTS

TEXT = "USER: What is a bicycle? ASSISTANT:"
GREEDY = strings('{"max_tokens": 12, "temperature": 0}')


def ask(server, **tensors):
    return stream(server.grpc_url, "video_llava", {"text_input": strings(TEXT)} | tensors)


def test_a_stream_is_deltas_and_one_final_response(server):
    streamed = ask(server, sampling_parameters=GREEDY, stream=flag(True), return_finish_reason=flag(True))
    assert streamed.num_final == 1
    assert len(streamed.outputs) > 1
    reasons = [output["finish_reason"][0] for output in streamed.outputs]
    assert set(reasons[:-1]) == {b"None"}
    assert reasons[-1] in {b"stop", b"length"}


def test_without_streaming_there_is_one_response_and_the_prompt_stands_before_the_answer(server):
    whole = ask(server, sampling_parameters=GREEDY)
    assert (len(whole.outputs), whole.num_final) == (1, 1)
    assert set(whole.outputs[0]) == {"text_output"}
    without_prompt = ask(server, sampling_parameters=GREEDY, exclude_input_in_output=flag(True))
    streamed = ask(server, sampling_parameters=GREEDY, stream=flag(True))
    assert whole.text == TEXT + without_prompt.text
    assert streamed.text == without_prompt.text


def test_every_optional_output_comes_when_asked_for(server):
    names = {spec.name for spec in OUTPUTS} - {"text_output"}
    sampling = strings('{"max_tokens": 5, "temperature": 0, "logprobs": 2}')
    (output,) = ask(server, sampling_parameters=sampling, **{f"return_{name}": flag(True) for name in names}).outputs
    assert set(output) == {"text_output", *names}
    token_ids = json.loads(output["token_ids"][0])
    logprobs = json.loads(output["logprobs"][0])
    assert len(token_ids) == len(logprobs) == output["num_output_tokens"][0] == 5
    chosen = [position[str(token_id)]["logprob"] for token_id, position in zip(token_ids, logprobs, strict=True)]
    assert output["cumulative_logprob"][0] == pytest.approx(sum(chosen), rel=1e-5)
    seconds = json.loads(output["stage_seconds"][0])
    assert set(seconds) == {"encode", "queue", "prefill", "decode"}
    assert all(value >= 0 for value in seconds.values())


def test_several_sequences(server):
    sampling = strings('{"max_tokens": 6, "temperature": 1.0, "seed": 7, "n": 3}')
    whole = ask(server, sampling_parameters=sampling)
    assert whole.outputs[0]["text_output"].shape == (3,)
    deltas = ask(server, sampling_parameters=sampling, stream=flag(True))
    joined = [b"".join(output["text_output"][index] for output in deltas.outputs).decode() for index in range(3)]
    assert [TEXT + text for text in joined] == [text.decode() for text in whole.outputs[0]["text_output"]]
    assert deltas.num_final == 1


def test_request_parameters_stand_in_for_sampling_parameters(server):
    tensors = {"text_input": strings(TEXT), "return_num_output_tokens": flag(True)}
    parameters = {"max_tokens": "3", "temperature": 0, "ignore_eos": True}
    streamed = stream(server.grpc_url, "video_llava", tensors, parameters=parameters)
    assert streamed.outputs[0]["num_output_tokens"].tolist() == [3]


def test_structured_output(server):
    sampling = {"max_tokens": 12, "temperature": 0, "structured_outputs": {"choice": ["yes", "no"]}}
    answer = ask(server, sampling_parameters=strings(json.dumps(sampling)), exclude_input_in_output=flag(True))
    assert answer.text in {"yes", "no"}


@pytest.mark.parametrize("model", ["video_llava", "vicuna"])
def test_http_answers_a_text_only_prompt(server, model):
    sampling = {"max_tokens": 5, "temperature": 0, "ignore_eos": True}
    body = {"text_input": TEXT, "stream": True, "return_num_output_tokens": True, **sampling}
    lines = post(f"http://{server.http_url}/v2/models/{model}/generate_stream", body).splitlines()
    events = [json.loads(line.removeprefix("data: ")) for line in lines if line.startswith("data: ")]
    # An event holds two tokens where the engine made the second before the first was fetched.
    assert len(events) > 1
    assert sum(event["num_output_tokens"] for event in events) == 5
    whole = json.loads(post(f"http://{server.http_url}/v2/models/{model}/generate", body | {"stream": False}))
    assert whole["text_output"] == TEXT + "".join(event["text_output"] for event in events)


def post(url: str, body: dict) -> str:
    with urllib.request.urlopen(url, data=json.dumps(body).encode(), timeout=60) as response:
        return response.read().decode()


def test_the_client_streams_a_video(client, clip_path):
    with client.stream("What happens?", video=clip_path, max_tokens=12) as stream_:
        deltas = list(stream_)
    answer = stream_.answer
    assert len(deltas) > 1
    assert answer.text == "".join(delta.text for delta in deltas)
    assert answer.num_output_tokens == len(answer.token_ids)
    assert answer.frames[0].indices == tuple(i * 250 // 8 for i in range(8))
    assert answer.stage_seconds.total > answer.stage_seconds.prefill > 0


def test_frames_of_any_number_of_videos_and_images_are_accepted_as_plain_tensors(server):
    frames = np.random.default_rng(0).integers(0, 256, (8, 56, 56, 3), np.uint8)
    streamed = ask(
        server,
        text_input=strings("USER: <image>\n<video>\nWhat? ASSISTANT:"),
        video_frames=frames,
        image_frames=frames[:1],
        sampling_parameters=GREEDY,
        return_num_input_tokens=flag(True),
    )
    assert not streamed.error
    assert streamed.outputs[0]["num_input_tokens"][0] > 8 * 17 + 16
