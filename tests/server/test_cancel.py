"""A caller who leaves stops its generation; other requests go on."""

import json
import os
import queue
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
from support.callers import ENDLESS
from support.triton import flag, grpcclient, metrics, stream, strings, to_input
from video_llava_client import DeadlineExceeded

# Never ends by itself while a test looks: 45 s.
MAX_TOKENS = 900

GENERATED = "vllm:generation_tokens_total{vicuna}"
RUNNING = "vllm:num_requests_running{vicuna}"
WAITING = "vllm:num_requests_waiting{vicuna}"


@pytest.fixture
def idle(server, wait_for):
    """Return `idle()`: wait until the engine has nothing to do, then give its count of generated tokens."""

    def wait_idle() -> float:
        time.sleep(0.3)  # the counters follow the engine by a tenth of a second
        wait_for(lambda: (now := metrics(server.metrics_url))[RUNNING] == 0 and now[WAITING] == 0)
        time.sleep(0.3)
        return metrics(server.metrics_url)[GENERATED]

    return wait_idle


def test_leaving_the_stream_stops_the_engine_within_two_tokens(client, clip_path, idle):
    check_wasted(lambda: tokens_after_leaving(client, clip_path, idle))
    assert client.ask("What is a bicycle?", max_tokens=3).num_output_tokens > 0


def test_killing_the_client_stops_the_engine_within_two_tokens(server, client, clip_path, idle):
    check_wasted(lambda: tokens_after_killing(server, clip_path, idle))
    assert client.ask("What is a bicycle?", max_tokens=3).num_output_tokens > 0


def test_an_answer_is_given_up_at_its_deadline(client, clip_path, idle):
    client.ask("What happens?", video=clip_path, max_tokens=1)
    before = idle()
    with pytest.raises(DeadlineExceeded):
        client.ask("What happens?", video=clip_path, max_tokens=MAX_TOKENS, sampling=ENDLESS, timeout_seconds=0.2)
    assert idle() - before < MAX_TOKENS
    assert client.ask("What is a bicycle?", max_tokens=3).num_output_tokens > 0


def check_wasted(try_once: Callable[[], float]) -> None:
    """Try until the engine made at most two tokens beyond what the client had; without a cancel it makes all."""
    # A machine that is busy with something else can hold one try up, which is no fault of the cancel.
    wasted = []
    while len(wasted) < 5 and min(wasted, default=MAX_TOKENS) > 2:
        wasted.append(try_once())
    assert min(wasted) <= 2, wasted


def tokens_after_leaving(client, clip_path, idle) -> float:
    before = idle()
    received = 0
    with client.stream("What happens?", video=clip_path, max_tokens=MAX_TOKENS, sampling=ENDLESS) as stream_:
        for delta in stream_:
            received += delta.num_output_tokens
            if received >= 10:
                break
    return idle() - before - received


def tokens_after_killing(server, clip_path, idle) -> float:
    before = idle()
    command = [sys.executable, "-c", ENDLESS_CLIENT, server.grpc_url, str(clip_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        received = sum(int(process.stdout.readline()) for _ in range(10))
        os.kill(process.pid, signal.SIGKILL)
        received += sum(map(int, process.stdout))
    return idle() - before - received


def test_the_requests_of_a_killed_client_leave_nothing_in_flight(server, client, idle, clip_path, wait_for):
    process = subprocess.Popen(
        [sys.executable, "-c", CROWD, server.grpc_url, str(clip_path)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    with process:
        assert process.stdout.readline().strip() == "crowd"
        os.kill(process.pid, signal.SIGKILL)
    idle()
    pending = [name for name in metrics(server.metrics_url) if name.startswith("nv_inference_pending_request_count")]
    wait_for(lambda: all(metrics(server.metrics_url)[name] == 0 for name in pending))
    assert client.ask("What is a bicycle?", max_tokens=3).num_output_tokens > 0


def test_others_are_not_touched(client, clip_path, idle):
    alone = client.ask("What happens?", video=clip_path, max_tokens=60, sampling=ENDLESS).token_ids
    with ThreadPoolExecutor(1) as pool:
        other = pool.submit(client.ask, "What happens?", video=clip_path, max_tokens=60, sampling=ENDLESS)
        for _ in range(3):
            with client.stream("And now?", video=clip_path, max_tokens=MAX_TOKENS, sampling=ENDLESS) as stream_:
                next(stream_)
        assert other.result(timeout=60).token_ids == alone
    idle()


def test_a_generation_can_be_stopped_by_its_id(server, idle):
    """What the relay does for the ensemble, any direct caller of the language model can do."""
    before = idle()
    responses: queue.Queue = queue.Queue()
    sampling = json.dumps({"max_tokens": MAX_TOKENS, "temperature": 0, **ENDLESS})
    tensors = {"text_input": strings("USER: What? ASSISTANT:"), "sampling_parameters": strings(sampling)}
    inputs = [to_input(name, array) for name, array in (tensors | {"stream": flag(True)}).items()]
    with grpcclient.InferenceServerClient(server.grpc_url) as client:
        client.start_stream(lambda result, error: responses.put((result, error)))
        client.async_stream_infer("vicuna", inputs, request_id="mine")
        first, error = responses.get(timeout=60)
        assert error is None
        (generation_id,) = first.as_numpy("generation_id")
        stopped = stream(server.grpc_url, "vicuna", {"stop": strings(generation_id.decode())})
        assert (stopped.error, stopped.outputs, stopped.num_final) == ("", [], 1)
        while error is None:
            _, error = responses.get(timeout=60)
        client.stop_stream()
    assert "CANCELLED" in error.message()
    assert idle() - before < MAX_TOKENS


ENDLESS_CLIENT = """
import sys
from video_llava_client import VideoLlava
with VideoLlava(sys.argv[1]) as client:
    with client.stream("What?", video=sys.argv[2], max_tokens=900, sampling={"ignore_eos": True, "seed": 20}) as stream:
        for delta in stream:
            print(delta.num_output_tokens, flush=True)
"""

CROWD = """
import sys, threading
from video_llava_client import VideoLlava
client = VideoLlava(sys.argv[1])
clip = client.load(sys.argv[2])
started = threading.Semaphore(0)
def ask(number):
    with client.stream(f"What {number}?", video=clip, max_tokens=900, sampling={"ignore_eos": True}) as stream:
        next(stream)
        started.release()
        for _ in stream:
            pass
for number in range(120):
    threading.Thread(target=ask, args=(number,), daemon=True).start()
for _ in range(60):
    started.acquire(timeout=60)
print("crowd", flush=True)
threading.Event().wait(60)
"""
