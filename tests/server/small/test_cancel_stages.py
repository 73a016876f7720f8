"""A caller who leaves costs no further work, in whatever stage: counted in engine steps of 50 ms."""

import json
import struct
import time
from collections.abc import Callable
from dataclasses import dataclass

import grpc
import numpy as np
import pytest
from support import slow_steps
from support.small_server import MAX_NUM_SEQS, SmallServer
from support.triton import flag, grpcclient, strings, to_input
from support.triton import stream as ask
from video_llava_client import VideoLlava
from video_llava_client.messages import messages
from video_llava_client.triton import Methods

RUNNING = "vllm:num_requests_running{vicuna}"
WAITING = "vllm:num_requests_waiting{vicuna}"
STEPS = "video_llava:engine_steps_total{vicuna}"
PROMPT = "vllm:prompt_tokens_total{vicuna}"
GENERATED = "vllm:generation_tokens_total{vicuna}"

SHORT = "USER: What is a bicycle? ASSISTANT:"
VIDEO = "USER: <video>\nWhat happens? ASSISTANT:"
# 430 positions, 54 steps: more than there are between two heartbeats.
LONG = f"USER: {'What is a bicycle? ' * 38} ASSISTANT:"
NUM_TOKENS = 400
SAMPLING = f'{{"max_tokens": {NUM_TOKENS}, "temperature": 0, "ignore_eos": true, "seed": {slow_steps.SEED}}}'
# Between two heartbeats a cancel is not noticed: a second, which is 20 steps. Twice that, for a busy machine.
HEARTBEAT_STEPS = 40


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
def idle(small: SmallServer, wait_for):
    """Return `idle()`: wait until the engine has nothing to do, then give the counters."""

    def wait_idle() -> dict[str, float]:
        wait_for(lambda: (now := small.metrics())[RUNNING] == 0 and now[WAITING] == 0)
        time.sleep(0.5)  # the counters follow the engine by a tenth of a second
        return small.metrics()

    return wait_idle


@pytest.fixture(scope="module")
def measure(small: SmallServer, wait_for, idle):
    """Return `measure(text, ready)`: what a request costs that is left as soon as `ready` holds."""

    def run(text: str, ready: Callable[[Call, dict[str, float]], bool], **options) -> Wasted:
        before = idle()
        call = Call(small.url, text, **options)
        wait_for(lambda: ready(call, before))
        call.leave()
        time.sleep(2)  # what is on its way must show itself
        after = idle()
        return Wasted(*(after[name] - before[name] for name in (STEPS, PROMPT, GENERATED)))

    return run


def new_video() -> np.ndarray:
    """Frames that no cache knows."""
    return np.random.default_rng().integers(0, 256, (8, 56, 56, 3), np.uint8)


def encoder_works(small: SmallServer) -> Callable[[Call, dict[str, float]], bool]:
    passed = "nv_inference_request_success{intake}"
    return lambda _call, before: small.metrics().get(passed, 0) > before.get(passed, 0)


def test_before_the_encoders(measure):
    wasted = measure(VIDEO, lambda *_: True, frames=new_video())
    assert wasted == Wasted(0, 0, 0)


def test_while_frames_are_encoded(measure, small):
    wasted = measure(VIDEO, encoder_works(small), frames=new_video())
    assert wasted == Wasted(0, 0, 0)


def test_frames_whose_encoding_was_cancelled_are_encoded_when_asked_about_again(measure, small):
    frames = new_video()
    measure(VIDEO, encoder_works(small), frames=frames)
    with VideoLlava(small.url, timeout_seconds=60) as client:
        assert client.ask("What happens?", video=frames, max_tokens=4).num_output_tokens == 4


def test_while_the_prompt_is_read(measure, small):
    wasted = measure(LONG, lambda *_: small.metrics()[RUNNING] == 1)
    assert wasted.steps <= HEARTBEAT_STEPS
    assert (wasted.prompt_tokens, wasted.generated_tokens) == (0, 0)


def test_while_tokens_come(measure):
    wasted = measure(SHORT, lambda call, _before: call.num_responses >= 5)
    assert wasted.generated_tokens <= 5 + HEARTBEAT_STEPS


def test_an_answer_in_one_piece(measure, small):
    """Nothing has come when its caller leaves; the relay learns it by the next heartbeat."""
    wasted = measure(
        SHORT,
        lambda _call, before: small.metrics()[GENERATED] >= before[GENERATED] + 5,
        stream=False,
    )
    assert 5 <= wasted.generated_tokens <= 5 + 2 * HEARTBEAT_STEPS


def test_while_it_waits_for_a_place_in_the_batch(small, wait_for):
    calls = [Call(small.url, SHORT) for _ in range(MAX_NUM_SEQS)]
    try:
        wait_for(lambda: all(call.num_responses > 1 for call in calls))
        waiting = Call(small.url, SHORT)
        wait_for(lambda: small.metrics()[WAITING] == 1)
        before = small.metrics()  # not earlier: counters follow by a tenth of a second
        waiting.leave()
        wait_for(lambda: small.metrics()[WAITING] == 0)
        after = small.metrics()
    finally:
        for call in calls:
            call.leave()
    wait_for(lambda: small.metrics()[RUNNING] == 0)
    assert after[RUNNING] == MAX_NUM_SEQS, "the batch has had no place for it"
    assert after[PROMPT] == before[PROMPT]


@pytest.mark.parametrize("model", ["video_llava", "vicuna"])
@pytest.mark.parametrize("stream", [True, False], ids=["streamed", "in one piece"])
def test_the_requests_own_timeout_ends_it_and_frees_its_blocks(small, wait_for, model, stream):
    before = small.metrics()
    tensors = {"text_input": strings(SHORT), "sampling_parameters": strings(SAMPLING), "stream": flag(stream)}
    answered = ask(small.url, model, tensors, timeout=1_000_000)
    assert "DEADLINE_EXCEEDED: the request's timeout of 1.0 s passed" in answered.error
    wait_for(lambda: (now := small.metrics())[RUNNING] == 0 and now["vllm:kv_cache_usage_perc{vicuna}"] == 0)
    assert small.metrics()[GENERATED] - before[GENERATED] < NUM_TOKENS / 2


def test_others_are_answered_while_one_reads_nothing(small, wait_for, idle):
    """Its responses queue up in Triton, a bounded number; the engine does not wait for them."""
    with VideoLlava(small.url, timeout_seconds=60) as client:
        server = small.launcher.tritonserver()
        client.ask("What is a bicycle?", max_tokens=50)
        memory, before = server.memory_info().rss, idle()[GENERATED]
        with NeverReads(small.url):
            answer = client.ask("What is a bicycle?", max_tokens=50)
            wait_for(lambda: small.metrics()[GENERATED] >= before + NUM_TOKENS + answer.num_output_tokens)
            assert server.memory_info().rss - memory < 64 << 20


@pytest.mark.parametrize("says", ["in its parameter", "by its gRPC deadline"])
def test_one_that_reads_nothing_ends_in_time_all_the_same(small, wait_for, says):
    before = small.metrics()
    # In 5 s a hundred of the four hundred tokens come, twice what its window takes.
    deadline = {"timeout_us": 5_000_000} if says == "in its parameter" else {"grpc_timeout_seconds": 5}
    with NeverReads(small.url, seed=slow_steps.SEED, **deadline):
        wait_for(lambda: small.metrics()[RUNNING] == 1)
        wait_for(lambda: (now := small.metrics())[RUNNING] == 0 and now["vllm:kv_cache_usage_perc{vicuna}"] == 0)
    assert 20 < small.metrics()[GENERATED] - before[GENERATED] < NUM_TOKENS / 2


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
