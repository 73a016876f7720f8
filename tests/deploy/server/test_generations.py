"""Every request ends in exactly one final response, whatever becomes of its generation."""

import asyncio
import json
import re
import threading
import time
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from support.fake_triton import FINAL, FakeLogger, FakeSender
from video_llava_server import generations as module
from video_llava_server import responses
from video_llava_server.errors import Cancelled, Unavailable
from video_llava_server.replies import ServerLoad, reply_tensors, stage_seconds
from vllm.sampling_params import SamplingParams, StructuredOutputsParams

LOAD = ServerLoad(num_encoding=1, num_waiting=2, num_running=3, kv_cache_usage=0.25)


class FakeEngine:
    """An event loop on a thread, and a generator in the engine's place."""

    def __init__(self, outputs):
        self._outputs = outputs
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()

    def call_soon(self, callback, *arguments):
        self._loop.call_soon_threadsafe(callback, *arguments)

    async def generate(self, _prompt, _sampling, _generation_id, _trace_headers, _lora_name, _priority):
        for output in self._outputs:
            if isinstance(output, Exception):
                raise output
            if isinstance(output, float):
                await asyncio.sleep(output)
            else:
                yield output

    def stop(self):
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(timeout=10)
        self._loop.close()


class Replies:
    def __init__(self):
        self.sent = []
        self.ended = threading.Event()

    def put(self, output, make_tensors):
        self.sent.append((make_tensors(output)["text_output"][0].decode(), output.finished))
        if output.finished:
            self.ended.set()

    def fail(self, error):
        self.sent.append((str(error), True))
        self.ended.set()


def output(text, *, finished=False, index=0, reason="stop", scheduled_ts=1.5) -> Any:
    completion = SimpleNamespace(
        index=index,
        text=text,
        finish_reason=reason if finished else None,
        cumulative_logprob=None,
        logprobs=None,
        token_ids=[7],
    )
    times = SimpleNamespace(queued_ts=1.0, scheduled_ts=scheduled_ts, first_token_ts=3.0, last_token_ts=7.0)
    made = SimpleNamespace(outputs=[completion], finished=finished, num_cached_tokens=None, metrics=times)

    def add(later, *, aggregate):
        assert aggregate
        made.finished = later.finished
        completion.text += later.outputs[0].text

    made.add = add
    return made


@pytest.fixture
def run():
    """Return `run(outputs)`: what the caller got, as (text, final) pairs."""
    engines = []

    def run_generation(
        outputs,
        *,
        timeout_seconds=0.0,
        stop_after_seconds=None,
        drain_error=None,
        sampling=None,
        **request_options,
    ):
        engines.append(FakeEngine(outputs))
        generations = module.Generations(engines[-1], lambda: LOAD)
        replies = Replies()
        defaults = {
            "echo": False,
            "text": "",
            "optional_outputs": frozenset(),
            "lora_name": None,
            "priority": 0,
            "received_seconds": None,
            "stream": False,
        }
        request: Any = SimpleNamespace(
            **(defaults | {"is_in_ensemble": "received_seconds" in request_options} | request_options)
        )
        prompt: Any = SimpleNamespace(token_ids=[1, 2])
        generation = module.Generation(
            id=generations.new_id("a"),
            request=request,
            prompt=prompt,
            sampling=SamplingParams(**(sampling or {})),
            deadline=module.Deadline.of(timeout_seconds, since=None),
            replies=replies,
        )
        generations.start(generation)
        if drain_error is not None:
            generations.stop_all(drain_error)
        if stop_after_seconds is not None:
            time.sleep(stop_after_seconds)
            generations.stop(generation.id)
            generations.stop("unknown")
        assert replies.ended.wait(timeout=10)
        assert sum(final for _, final in replies.sent) == 1
        return replies.sent

    yield run_generation
    for engine in engines:
        engine.stop()


def test_deltas_end_with_the_final_one(run):
    assert run([output("a"), output("b", finished=True)]) == [("a", False), ("b", True)]


def test_a_failing_engine_fails_the_request(run):
    assert run([output("a"), Unavailable("the engine process has died", reason="engine_dead")]) == [
        ("a", False),
        ("UNAVAILABLE: the engine process has died, reason=engine_dead", True),
    ]
    assert run([KeyError("x")]) == [("INTERNAL: KeyError: 'x'", True)]


CHOICE = StructuredOutputsParams(choice=["a"])


@pytest.mark.parametrize(
    ("reason", "sampling", "error"),
    [
        ("error", {}, "INTERNAL: the engine ended the answer with an error, see the server's log: try again"),
        ("error", {"bad_words": ["a"]}, "INTERNAL: the engine ended the answer with an error, see"),
        ("error", {"structured_outputs": CHOICE}, "INTERNAL: .* no token was left that structured_outputs allows"),
        (
            "error",
            {"structured_outputs": CHOICE, "bad_words": ["a"], "allowed_token_ids": [5], "min_tokens": 3},
            "INVALID_ARGUMENT: sampling_parameters: structured_outputs and allowed_token_ids, bad_words together",
        ),
        ("abort", {}, "UNAVAILABLE: the engine stopped before the answer was complete: ask another server"),
    ],
)
def test_what_the_engine_gives_up_is_an_error(run, reason, sampling, error):
    (first, last) = run([output("a"), output("", finished=True, reason=reason)], sampling=sampling)
    assert first == ("a", False)
    assert re.match(error, last[0])


def test_the_requests_timeout_ends_it(run):
    assert run([output("a"), 30.0], timeout_seconds=0.05)[-1] == (
        "DEADLINE_EXCEEDED: the request's timeout of 0.05 s passed",
        True,
    )


@pytest.mark.parametrize("stop_after_seconds", [0.0, 0.1])
def test_stopping_ends_it_even_before_its_first_step(run, stop_after_seconds):
    assert run([30.0], stop_after_seconds=stop_after_seconds) == [("CANCELLED: the request was cancelled", True)]


def test_a_drain_that_takes_too_long_ends_it_with_its_own_error(run):
    stopped = Unavailable("this server stopped", reason="draining")
    assert run([30.0], drain_error=stopped) == [("UNAVAILABLE: this server stopped, reason=draining", True)]


def test_ids_are_unique_and_short_whatever_the_callers_send():
    engine: Any = SimpleNamespace()
    generations = module.Generations(engine, lambda: LOAD)
    ids = [generations.new_id(request_id) for request_id in ("", "", "a", "a", "b" * 1000)]
    assert len(set(ids)) == 5
    assert all(len(each) <= 128 + 33 for each in ids)
    assert ids[2].startswith("a-")


def test_times_that_the_engine_did_not_record_are_unknown():
    never_scheduled = output("A", finished=True, scheduled_ts=0.0)
    assert stage_seconds(never_scheduled, None) == {"encode": None, "queue": None, "prefill": None, "decode": 4.0}


def test_replies_hold_what_was_asked_for():
    request: Any = SimpleNamespace(
        echo=True, text="Q", optional_outputs={"finish_reason", "num_output_tokens", "stage_seconds", "server_load"}
    )
    tensors = reply_tensors(
        request,
        output("A", finished=True, index=1),
        num_input_tokens=2,
        num_sequences=2,
        encode_seconds=0.25,
        server_load=lambda: LOAD,
    )
    assert set(tensors) == {"text_output", "finish_reason", "num_output_tokens", "stage_seconds", "server_load"}
    assert tensors["text_output"].tolist() == [b"", b"QA"]
    assert tensors["finish_reason"].tolist() == [b"None", b"stop"]
    assert np.array_equal(tensors["num_output_tokens"], np.array([0, 1], np.uint32))
    assert tensors["stage_seconds"].tolist() == [b'{"encode": 0.25, "queue": 0.5, "prefill": 1.5, "decode": 4.0}']
    load = {"num_encoding": 1, "num_waiting": 2, "num_running": 3, "kv_cache_usage": 0.25}
    assert json.loads(tensors["server_load"][0]) == load


@pytest.fixture
def make_thread():
    """Return `make_thread(free_cores)`, which makes a thread that is not started."""
    made = []

    def make(free_cores=1.0):
        made.append(responses.ResponseThread(lambda: None, lambda: free_cores))
        return made[-1]

    yield make
    for thread in made:
        thread.stop()


@pytest.fixture
def thread(make_thread):
    made = make_thread()
    made.start()
    return made


def open_channel(thread, sender, **options):
    defaults = {"on_gone": lambda: None, "on_end": lambda _error: None}
    return thread.open(sender, generation_id="a-1", **(defaults | options))


def make_tensors(made):
    return {"text_output": np.array([made.outputs[0].text.encode()], np.object_)}


def put(channel, text, *, finished=False):
    channel.put(output(text, finished=finished), make_tensors)


def texts(sender):
    return [(tensors["text_output"].item().decode(), flags == FINAL) for tensors, _, flags in sender.sent]


def wait_for(condition):
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_in_the_ensemble_an_error_is_a_tensor_so_that_it_overtakes_nothing(thread):
    sender, ends, gone = FakeSender(), [], Cancelled("gone")
    open_channel(thread, sender, is_in_ensemble=True, on_end=ends.append).fail(gone)
    thread.stop()
    assert ends == [gone]
    ((tensors, error, flags),) = sender.sent
    assert (error, flags) == ("", FINAL)
    assert tensors["error"].tolist() == [b"CANCELLED: gone"]
    assert tensors["generation_id"].tolist() == [b"a-1"]


def test_responses_keep_their_order_and_error_and_end_are_one(thread):
    sender = FakeSender()
    channel = open_channel(thread, sender)
    put(channel, "a")
    wait_for(lambda: sender.sent)
    channel.fail(Unavailable("later", reason="full"))
    thread.stop()
    assert [(error, flags) for _, error, flags in sender.sent] == [("", 0), ("UNAVAILABLE: later, reason=full", FINAL)]


def test_nothing_follows_the_final_response(thread):
    sender, ends = FakeSender(), []
    channel = open_channel(thread, sender, on_end=ends.append)
    put(channel, "a", finished=True)
    channel.fail(Cancelled("too late"))
    thread.stop()
    assert texts(sender) == [("a", True)]
    assert ends == [None]


def test_a_reply_that_cannot_be_made_fails_the_request_and_stops_the_generation(thread):
    sender, ends, gone = FakeSender(), [], threading.Event()
    channel = open_channel(thread, sender, on_gone=gone.set, on_end=ends.append)
    channel.put(output("a"), lambda _output: {}["x"])
    wait_for(lambda: sender.sent)
    assert [(error, flags) for _, error, flags in sender.sent] == [("INTERNAL: KeyError: 'x'", FINAL)]
    assert gone.is_set()
    assert str(ends[0]) == "INTERNAL: KeyError: 'x'"


def test_a_caller_who_has_gone_is_noticed_without_a_response(thread):
    gone, sender = threading.Event(), FakeSender()
    open_channel(thread, sender, on_gone=gone.set)
    assert not gone.wait(timeout=0.2)
    sender.cancelled = True
    assert gone.wait(timeout=5)


def test_in_the_ensemble_heartbeats_fill_the_time_without_a_response(thread, monkeypatch):
    """They tell the relay; a client with a ticket from a call of `intake` alone has none, and is noticed here."""
    gone, sender, direct = threading.Event(), FakeSender(), FakeSender()
    open_channel(thread, direct)
    sender.cancelled = True
    channel = open_channel(thread, sender, is_in_ensemble=True, on_gone=gone.set)
    put(channel, "a")
    wait_for(lambda: sender.sent)
    assert not gone.is_set()
    monkeypatch.setattr(responses, "HEARTBEAT_SECONDS", 0.01)
    assert gone.wait(timeout=5)
    wait_for(lambda: len(sender.sent) > 2)
    assert {tuple(tensors) for tensors, *_ in sender.sent[1:]} == {("generation_id",)}
    assert direct.sent == []


def test_what_comes_while_a_stream_waits_is_one_response(make_thread):
    sender, other, thread = FakeSender(), FakeSender(), make_thread()
    channel, other_channel = open_channel(thread, sender), open_channel(thread, other)
    for text in "abc":
        put(channel, text)
    put(other_channel, "x")
    put(channel, "d", finished=True)
    thread.start()
    wait_for(lambda: sender.sent and other.sent)
    assert texts(sender) == [("abcd", True)]
    assert texts(other) == [("x", False)]


class SlowSender(FakeSender):
    def __init__(self, seconds):
        super().__init__()
        self.seconds = seconds

    def send(self, response=None, *, flags=0):
        time.sleep(self.seconds)
        super().send(response, flags=flags)


@pytest.mark.parametrize(("free_cores", "factor"), [(0.0, 19.0), (0.2, 4.0), (1.0, 0.0), (5.0, 0.0)])
def test_a_stream_pauses_as_long_as_the_free_cores_ask_for_and_its_end_does_not_wait(make_thread, free_cores, factor):
    thread, sender = make_thread(free_cores), SlowSender(0.01)
    channel = open_channel(thread, sender)
    put(channel, "a")
    thread.start()
    wait_for(lambda: sender.sent and channel.resume_at)
    resume_at, pause_seconds = channel.resume_at, channel.resume_at - channel.sent_at
    assert factor * sender.seconds <= pause_seconds <= responses.MAX_PAUSE_SECONDS
    assert pause_seconds == 0 or factor
    put(channel, "b")
    if factor:
        put(channel, "c")
        wait_for(lambda: len(sender.sent) == 2)
        assert time.monotonic() >= resume_at
        put(channel, "d")
    put(channel, "e", finished=True)
    wait_for(lambda: sender.sent[-1][2] == FINAL)
    assert "".join(text for text, _ in texts(sender)) == ("abcde" if factor else "abe")
    assert len(sender.sent) == 3 or not factor


def test_pauses_of_several_streams_follow_each_other_up_to_a_bound(make_thread):
    thread, seconds = make_thread(0.0), 0.8 * responses.MAX_PAUSE_SECONDS / 4 / 19
    channels = [open_channel(thread, SlowSender(seconds)) for _ in range(4)]
    for channel in channels:
        put(channel, "a")
    thread.start()
    wait_for(lambda: all(channel.resume_at for channel in channels))
    # They follow each other from the first on.
    assert channels[-1].resume_at - channels[0].sent_at >= 4 * 19 * seconds
    for channel in channels:
        channel.sender.seconds = 0.05
        put(channel, "b", finished=False)
    wait_for(lambda: all(len(channel.sender.sent) == 2 for channel in channels))
    assert channels[-1].resume_at - channels[-1].sent_at == pytest.approx(responses.MAX_PAUSE_SECONDS)


class BrokenSender(FakeSender):
    def send(self, response=None, *, flags=0):
        del response, flags
        raise RuntimeError("connection gone")


def test_one_broken_sender_does_not_stop_the_others_and_ends_too(thread):
    FakeLogger.lines.clear()
    healthy, ends = FakeSender(), []
    broken = open_channel(thread, BrokenSender(), on_sent=lambda: ends.append("broken"))
    put(broken, "a", finished=True)
    channel = open_channel(thread, healthy, on_sent=lambda: ends.append(texts(healthy)))
    put(channel, "a")
    put(channel, "b", finished=True)
    thread.stop()
    assert ends == ["broken", texts(healthy)]
    assert texts(healthy)[-1][1]
    assert "connection gone" in FakeLogger.lines[0]
