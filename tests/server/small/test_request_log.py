"""One line for each request under load, with the figures that its caller got; on a full disk requests go on."""

import json
import struct
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import numpy as np
import pytest
from support import slow_steps
from support.small_server import SmallServer
from support.triton import stream, strings
from support.waiting import wait_until
from video_llava_client import Answer, InvalidRequest, VideoLlava
from video_llava_client.messages import messages
from video_llava_client.triton import Methods
from video_llava_server.log_file import verify_chain

ENDLESS = {
    "text_input": strings("USER: Too late? ASSISTANT:"),
    "sampling_parameters": strings(f'{{"max_tokens": 400, "ignore_eos": true, "seed": {slow_steps.SEED}}}'),
}
CALLER = {"x-video-llava-caller": "somebody"}
SLOW = {"ignore_eos": True, "seed": slow_steps.SEED}
DROPPED = "video_llava:request_log_dropped_total{vicuna}"


def lines(small: SmallServer, model: str = "vicuna") -> list[dict]:
    return [json.loads(line) for line in (small.request_log / f"{model}.jsonl").read_bytes().splitlines()]


def line_of(small: SmallServer, **facts: str) -> dict:
    """The one line with these facts, in whichever file."""

    def found() -> list[dict]:
        written = [*lines(small), *lines(small, "intake")]
        return [line for line in written if facts.items() <= line.items()]

    wait_until(lambda: bool(found()))
    (line,) = found()
    return line


def check_answered(line: dict, answer: Answer) -> None:
    assert (line["outcome"], line["called"], line["caller"]) == ("answered", "video_llava", "somebody")
    (sequence,) = line["answers"]
    assert (sequence["num_tokens"], sequence["finish_reason"]) == (answer.num_output_tokens, answer.finish_reason)
    assert sequence["text"].strip() == answer.text.strip()
    assert (line["num_input_tokens"], line["num_cached_tokens"]) == (answer.num_input_tokens, answer.num_cached_tokens)
    assert line["stage_seconds"]["decode"] == answer.stage_seconds.generation
    assert line["sampling"]["max_tokens"] == 12


def test_one_line_for_each_request_under_load(small: SmallServer) -> None:
    with VideoLlava(small.url, timeout_seconds=120, headers=CALLER) as client, ThreadPoolExecutor(30) as pool:

        def ask(number: int) -> Answer:
            video = np.random.default_rng(number).integers(0, 256, (8, 56, 56, 3), np.uint8) if number % 2 else None
            return client.ask(f"What is number {number}?", video=video, max_tokens=12)

        def leave() -> str:
            with client.stream("What?", max_tokens=400, sampling=SLOW) as left:
                next(left)
                return left.request_id

        def refuse(question: str, **options: Any) -> str:
            with pytest.raises(InvalidRequest) as caught:
                client.ask(question, **options)
            return caught.value.request_id

        asked = [pool.submit(ask, number) for number in range(24)]
        left = pool.submit(leave)
        late = pool.submit(stream, small.url, "video_llava", ENDLESS, timeout=1_000_000)
        invalid = [pool.submit(refuse, "What? " * 600), pool.submit(refuse, "What?", sampling={"top_p": 5})]
        answers = [each.result(timeout=120) for each in asked]

    for answer in answers:
        check_answered(line_of(small, id=answer.request_id), answer)
    videos = {line_of(small, id=answer.request_id)["media"] for answer in answers}
    assert len(videos) == 13  # of twelve videos, and none
    for refused, model in zip(invalid, ("intake", "vicuna"), strict=True):
        line = line_of(small, id=refused.result(timeout=60))
        assert line in lines(small, model)
        assert (line["outcome"], line["caller"], line["answers"]) == ("INVALID_ARGUMENT", "somebody", [])
    assert late.result(timeout=60).error
    assert line_of(small, prompt="USER: Too late? ASSISTANT:")["outcome"] == "DEADLINE_EXCEEDED"
    line = line_of(small, id=left.result(timeout=60))
    assert (line["outcome"], line["prompt"]) == ("CANCELLED", "USER: What? ASSISTANT:")
    assert line["answers"][0]["num_tokens"] >= 1


@pytest.mark.parametrize("model", ["video_llava", "vicuna"])
def test_a_callers_own_word_stands_beside_the_gateways(small: SmallServer, model: str) -> None:
    request = messages.ModelInferRequest(model_name=model, id=f"to {model}")
    request.inputs.add(name="text_input", datatype="BYTES", shape=[1])
    prompt = b"USER: What? ASSISTANT:"
    request.raw_input_contents.append(struct.pack("<I", len(prompt)) + prompt)
    request.parameters["x-video-llava-caller"].string_param = "another"
    request.parameters["max_tokens"].int64_param = 1
    with grpc.insecure_channel(small.url) as channel:
        call = Methods(channel).stream_infer(request.SerializeToString(), timeout=60, metadata=[*CALLER.items()])
        assert [message.error_message for message in call] == [""]
    line = line_of(small, id=f"to {model}")
    assert line["called"] == model
    assert sorted(line["caller"].split(", ")) == ["another", "somebody"]


def test_on_a_full_disk_requests_go_on_and_the_log_later(small: SmallServer) -> None:
    def num_dropped() -> float:
        return small.metrics()[DROPPED]

    def num_said() -> int:
        said = (small.log_folder / "server.log").read_text(encoding="utf-8", errors="replace")
        return said.count("vicuna.jsonl loses lines until it can be written again")

    said_before = num_said()
    if not small.fill_the_disk():
        pytest.skip("this user may not mount a small disk")
    before = num_dropped()
    with VideoLlava(small.url, timeout_seconds=60) as client:
        try:
            # The end of the file's last page may still take some lines.
            for _ in range(12):
                assert client.ask("What?", max_tokens=1).num_output_tokens == 1
            wait_until(lambda: num_dropped() > before)
        finally:
            small.free_the_disk()
        answer = client.ask("What?", max_tokens=1)
    line = line_of(small, id=answer.request_id)
    wait_until(lambda: num_dropped() - before == line["dropped"])
    assert num_said() - said_before <= 1


@pytest.mark.parametrize("model", ["intake", "vicuna"])
def test_the_chain_holds_over_restarts_and_full_disks(small: SmallServer, model: str) -> None:
    num_lines, _ = verify_chain(small.request_log / f"{model}.jsonl")
    assert num_lines > 0
