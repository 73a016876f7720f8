"""Whoever leaves costs nothing more, in whatever stage: counted in the engine's steps, at 50 ms a step."""

import json
import struct
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

import grpc
import numpy as np
import pytest
from support import slow_steps
from support.tight_server import MAX_NUM_SEQS, TightServer
from support.triton import flag, grpcclient, strings, to_input
from support.triton import stream as ask
from video_llava_client import VideoLlava
from video_llava_client.triton import Methods, messages

RUNNING = "vllm:num_requests_running{vicuna}"
WAITING = "vllm:num_requests_waiting{vicuna}"
STEPS = "video_llava:engine_steps_total{vicuna}"
PROMPT = "vllm:prompt_tokens_total{vicuna}"
GENERATED = "vllm:generation_tokens_total{vicuna}"

SHORT = "USER: What is a bicycle? ASSISTANT:"
VIDEO = "USER: <video>\nWhat happens? ASSISTANT:"
# 430 positions, 54 steps: more than a pulse takes.
LONG = f"USER: {'What is a bicycle? ' * 38} ASSISTANT:"
NUM_TOKENS = 400
SAMPLING = f'{{"max_tokens": {NUM_TOKENS}, "temperature": 0, "ignore_eos": true, "seed": {slow_steps.SEED}}}'
# Between two pulses a caller's leaving is not noticed: a second, which is 20 steps. Twice that, for a busy machine.
PULSE_STEPS = 40


class Call:
    """One request through Triton's own client, which can be left at any moment."""

    def __init__(self, url: str, text: str, *, frames: np.ndarray | None = None, stream: bool = True) -> None:
        tensors = {"text_input": strings(text), "stream": flag(stream), "sampling_parameters": strings(SAMPLING)}
        if frames is not None:
            tensors["video_frames"] = frames
        self.num_responses = 0
        self._client = grpcclient.InferenceServerClient(url)
        self._client.start_stream(self._count)
        self._client.async_stream_infer("video_llava", [to_input(*item) for item in tensors.items()])

    def _count(self, result: object, error: object) -> None:
        self.num_responses += error is None and result is not None

    def leave(self) -> None:
        self._client.stop_stream(cancel_requests=True)
        self._client.close()


@dataclass
class Wasted:
    """What the engine did for a request: all of it, since its caller left before the first token."""

    steps: float
    prompt_tokens: float
    generated_tokens: float


@pytest.fixture(scope="module")
def table():
    """Collects rows and prints them in the end (pytest -s)."""
    rows: list[tuple[str, Wasted]] = []
    yield rows
    sys.stdout.write("\ncaller left while                       engine steps  prompt tokens read  tokens generated\n")
    for stage, wasted in rows:
        numbers = f"{wasted.steps:12.0f}{wasted.prompt_tokens:20.0f}{wasted.generated_tokens:18.0f}"
        sys.stdout.write(f"{stage:<40}{numbers}\n")


@pytest.fixture(scope="module")
def measure(tight: TightServer, wait_for, table):
    """Return `measure(stage, text, ready)`: what a request costs that is left as soon as `ready` holds."""

    def idle() -> dict[str, float]:
        wait_for(lambda: (now := tight.metrics())[RUNNING] == 0 and now[WAITING] == 0)
        time.sleep(0.5)  # the counters follow the engine by a tenth of a second
        return tight.metrics()

    def run(stage: str, text: str, ready: Callable[[Call, dict[str, float]], bool], **options) -> Wasted:
        before = idle()
        call = Call(tight.url, text, **options)
        wait_for(lambda: ready(call, before))
        call.leave()
        time.sleep(2)  # what is on its way must show itself
        after = idle()
        wasted = Wasted(*(after[name] - before[name] for name in (STEPS, PROMPT, GENERATED)))
        table.append((stage, wasted))
        return wasted

    return run


def new_video() -> np.ndarray:
    """Frames that no cache knows."""
    return np.random.default_rng().integers(0, 256, (8, 56, 56, 3), np.uint8)


def encoder_works(tight: TightServer) -> Callable[[Call, dict[str, float]], bool]:
    passed = "nv_inference_request_success{intake}"
    return lambda _call, before: tight.metrics().get(passed, 0) > before.get(passed, 0)


def test_before_the_encoders(measure):
    wasted = measure("nothing has begun", VIDEO, lambda *_: True, frames=new_video())
    assert wasted == Wasted(0, 0, 0)


def test_while_frames_are_encoded(measure, tight):
    wasted = measure("frames are encoded", VIDEO, encoder_works(tight), frames=new_video())
    assert wasted == Wasted(0, 0, 0)


def test_while_the_prompt_is_read(measure, tight):
    wasted = measure("the prompt is read", LONG, lambda *_: tight.metrics()[RUNNING] == 1)
    assert wasted.steps <= PULSE_STEPS
    assert (wasted.prompt_tokens, wasted.generated_tokens) == (0, 0)


def test_while_tokens_come(measure):
    wasted = measure("tokens come, 5 had come", SHORT, lambda call, _before: call.num_responses >= 5)
    assert wasted.generated_tokens <= 5 + PULSE_STEPS


def test_an_answer_in_one_piece(measure, tight):
    """Nothing has come when its caller leaves; the pulses, which end in the relay, tell."""
    wasted = measure(
        "an answer in one piece is written",
        SHORT,
        lambda _call, before: tight.metrics()[GENERATED] >= before[GENERATED] + 5,
        stream=False,
    )
    assert 5 <= wasted.generated_tokens <= 5 + 2 * PULSE_STEPS


def test_while_it_waits_for_a_place_in_the_batch(tight, wait_for):
    calls = [Call(tight.url, SHORT) for _ in range(MAX_NUM_SEQS)]
    try:
        wait_for(lambda: all(call.num_responses > 1 for call in calls))
        before = tight.metrics()
        waiting = Call(tight.url, SHORT)
        wait_for(lambda: tight.metrics()[WAITING] == 1)
        waiting.leave()
        wait_for(lambda: tight.metrics()[WAITING] == 0)
        after = tight.metrics()
    finally:
        for call in calls:
            call.leave()
    wait_for(lambda: tight.metrics()[RUNNING] == 0)
    assert after[RUNNING] == MAX_NUM_SEQS, "the batch has had no place for it"
    assert after[PROMPT] == before[PROMPT]


@pytest.mark.parametrize("model", ["video_llava", "vicuna"])
@pytest.mark.parametrize("stream", [True, False], ids=["streamed", "in one piece"])
def test_the_requests_own_timeout_ends_it_and_frees_its_blocks(tight, wait_for, model, stream):
    before = tight.metrics()
    tensors = {"text_input": strings(SHORT), "sampling_parameters": strings(SAMPLING), "stream": flag(stream)}
    answered = ask(tight.url, model, tensors, timeout=1_000_000)
    assert "DEADLINE_EXCEEDED: the request's timeout of 1.0 s passed" in answered.error
    wait_for(lambda: (now := tight.metrics())[RUNNING] == 0 and now["vllm:kv_cache_usage_perc{vicuna}"] == 0)
    assert tight.metrics()[GENERATED] - before[GENERATED] < NUM_TOKENS / 2


def test_others_are_answered_while_one_reads_nothing(tight, wait_for):
    """Its responses heap up in Triton, a bounded number: it can do nothing to the engine."""
    with VideoLlava(tight.url, timeout_seconds=60) as client:
        server = tight.launcher.tritonserver()
        alone = timed(lambda: client.ask("What is a bicycle?", max_tokens=50))
        memory = server.memory_info().rss
        with NeverReads(tight.url):
            wait_for(lambda: tight.metrics()[RUNNING] == 1)
            beside = timed(lambda: client.ask("What is a bicycle?", max_tokens=50))
            wait_for(lambda: tight.metrics()[RUNNING] == 0)
            assert server.memory_info().rss - memory < 64 << 20
    # Not slowed by it; the machine may be busy.
    assert beside < 10 * alone + 5


@pytest.mark.parametrize("says", ["in its parameter", "by its gRPC deadline"])
def test_one_that_reads_nothing_ends_in_time_all_the_same(tight, wait_for, says):
    before = tight.metrics()
    # In 5 s a hundred of the four hundred tokens come, twice what its window takes.
    deadline = {"timeout_us": 5_000_000} if says == "in its parameter" else {"grpc_timeout_seconds": 5}
    with NeverReads(tight.url, seed=slow_steps.SEED, **deadline):
        wait_for(lambda: tight.metrics()[RUNNING] == 1)
        wait_for(lambda: (now := tight.metrics())[RUNNING] == 0 and now["vllm:kv_cache_usage_perc{vicuna}"] == 0)
    assert 20 < tight.metrics()[GENERATED] - before[GENERATED] < NUM_TOKENS / 2


def timed(run: Callable[[], object]) -> float:
    began = time.monotonic()
    run()
    return time.monotonic() - began


class NeverReads:
    """A caller who asks for megabytes of responses and takes none: its window of 64 KB closes."""

    def __init__(self, url: str, *, timeout_us: int = 0, grpc_timeout_seconds: float = 60, **sampling: object) -> None:
        request = messages.ModelInferRequest(model_name="video_llava", id="never reads")
        request.parameters["timeout"].int64_param = timeout_us
        sampling = {"max_tokens": NUM_TOKENS, "ignore_eos": True, "logprobs": 20, "temperature": 0, **sampling}
        for name, data in (("text_input", SHORT.encode()), ("sampling_parameters", json.dumps(sampling).encode())):
            request.inputs.add(name=name, datatype="BYTES", shape=[1])
            request.raw_input_contents.append(struct.pack("<I", len(data)) + data)
        for name in ("stream", "return_logprobs"):
            request.inputs.add(name=name, datatype="BOOL", shape=[1])
            request.raw_input_contents.append(b"\1")
        self._request = request.SerializeToString()
        self._timeout_seconds = grpc_timeout_seconds
        self._channel = grpc.insecure_channel(url, options=[("grpc.http2.bdp_probe", 0)])

    def __enter__(self) -> None:
        self._call = Methods(self._channel).stream_infer(self._request, timeout=self._timeout_seconds)

    def __exit__(self, *_: object) -> None:
        self._call.cancel()
        self._channel.close()
