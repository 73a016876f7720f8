"""The OpenAI-style gateway before a real Triton and engine: its answers are those of the gRPC client."""

import io
import json
import re
import threading
from pathlib import Path

import numpy as np
import pytest
from deploy.gateway.helpers import RunningGateway, data_url
from PIL import Image
from server.test_parity import CASES
from video_llava_client import Clip, ClipInfo
from video_llava_gateway.protocol import ChatRequest
from video_llava_server.sampling import SAMPLING_PARAMETERS

MAX_TOKENS = 24


@pytest.fixture(scope="module")
def gateway(server):
    running = RunningGateway(server.grpc_url, timeout_seconds=120)
    yield running
    running.stop()


@pytest.fixture(scope="module")
def clips(card_frames):
    return {"reversed": card_frames[::-1], "mirrored": card_frames[:, :, ::-1]}


def png(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def messages_of(prompt: str, media: list[dict]) -> list[dict]:
    """Return the conversation whose prompt this is, with the media in its first message."""
    messages: list[dict] = []
    for question, answer in re.findall(r"USER: (.*?) ASSISTANT:(.*?)(?:</s>|$)", prompt, re.DOTALL):
        messages.append({"role": "user", "content": [{"type": "text", "text": question}]})
        messages.append({"role": "assistant", "content": answer.strip()})
    messages[0]["content"] += media
    return messages[:-1]


def video_url(url: str) -> dict:
    return {"type": "video_url", "video_url": {"url": url}}


@pytest.mark.parametrize("name", CASES)
def test_tokens_and_probabilities_are_those_of_the_grpc_client(name, gateway, client, clip_path, clips, card_frames):
    case = CASES[name]
    frames = {each: ",".join(data_url(png(frame)).partition(",")[2] for frame in clip) for each, clip in clips.items()}
    whole = data_url(Path(clip_path).read_bytes())
    media = [video_url(whole if each == "card" else f"data:video/jpeg;base64,{frames[each]}") for each in case.videos]
    images = [card_frames[number] for number in case.images]
    media += [{"type": "image_url", "image_url": {"url": data_url(png(image), "image/png")}} for image in images]
    options = {"max_tokens": MAX_TOKENS, "temperature": 0, "logprobs": True, "top_logprobs": 2}
    (choice,) = gateway.post({"messages": messages_of(case.prompt, media), "return_token_ids": True, **options}).json()[
        "choices"
    ]

    info = ClipInfo("frames", tuple(range(8)), (None,) * 8)
    videos = tuple(clip_path if each == "card" else Clip(clips[each].copy(), info) for each in case.videos)
    answer = client.ask(prompt=case.prompt, video=videos, images=tuple(images), max_tokens=MAX_TOKENS, logprobs=2)
    assert choice["token_ids"] == list(answer.token_ids)
    assert (choice["message"]["content"], choice["finish_reason"]) == (answer.text, answer.finish_reason)
    chosen = [position[token] for token, position in zip(answer.token_ids, answer.logprobs, strict=True)]
    content = choice["logprobs"]["content"]
    assert [each["token"] for each in content] == [each.decoded_token for each in chosen]
    assert [each["logprob"] for each in content] == pytest.approx([each.logprob for each in chosen], abs=1e-3)
    assert all(len(each["top_logprobs"]) == 2 for each in content)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch's, when vLLM is imported
def test_every_field_of_vllms_is_known():
    """With its default; and what our server takes can be set."""
    from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest

    defaults = {
        name: field.get_default(call_default_factory=True)
        for name, field in ChatCompletionRequest.model_fields.items()
        if name != "messages"
    }
    ChatRequest.read(json.dumps(defaults | {"messages": [{"role": "user", "content": "What is it?"}]}).encode())
    assert set(SAMPLING_PARAMETERS) <= set(ChatRequest.model_fields)


def test_choices_are_the_servers_sequences(gateway, client):
    """With seed + i, as the server's sequence i."""
    body = {"messages": [{"role": "user", "content": "What is it?"}], "max_tokens": 8, "temperature": 1, "seed": 11}
    choices = gateway.post({**body, "n": 3, "return_token_ids": True}).json()["choices"]
    for index, choice in enumerate(choices):
        alone = client.ask("What is it?", max_tokens=8, temperature=1, sampling={"seed": 11 + index})
        assert choice["token_ids"] == list(alone.token_ids)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"temperature": -1}, "temperature"),
        ({"top_p": 2}, "top_p"),
        ({"stop_token_ids": list(range(200))}, "stop_token_ids"),
        ({"response_format": {"type": "json_schema", "json_schema": {"schema": {"not": {}}}}}, "response_format"),
        ({"structured_outputs": {"shape": "a"}}, "structured_outputs"),
    ],
)
def test_what_the_server_refuses_is_named(gateway, fields, param):
    response = gateway.post({"messages": [{"role": "user", "content": "What is it?"}], **fields})
    assert (response.status_code, response.json()["error"]["param"]) == (400, param), response.text


def test_a_choice_is_kept_to(gateway):
    body = {"messages": [{"role": "user", "content": "Is it?"}], "structured_outputs": {"choice": ["yes", "no"]}}
    assert gateway.post(body).json()["choices"][0]["message"]["content"] in ("yes", "no")


def test_a_second_question_has_cached_tokens(gateway, card_frames):
    frames = np.random.default_rng(threading.get_ident()).integers(0, 256, card_frames.shape, np.uint8)
    url = "data:video/jpeg;base64," + ",".join(data_url(png(frame)).partition(",")[2] for frame in frames)
    answers = [
        gateway.post({"messages": messages_of(f"USER: <video>\n{text} ASSISTANT:", [video_url(url)]), "max_tokens": 2})
        for text in ("What happens?", "What happens now?")
    ]
    first, second = (answer.json()["usage"] for answer in answers)
    assert first["prompt_tokens_details"]["cached_tokens"] < second["prompt_tokens_details"]["cached_tokens"]
    assert second["prompt_tokens"] > 100
