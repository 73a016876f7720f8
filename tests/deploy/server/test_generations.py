"""Every request ends in exactly one final response, whatever becomes of its generation."""

import asyncio
import sys
import threading
import time
from types import SimpleNamespace

import numpy as np
import pytest


class FakeEngine:
    """An event loop on a thread, and a generator in the engine's place."""

    def __init__(self, outputs):
        self._outputs = outputs
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()

    def call_soon(self, callback, *arguments):
        self._loop.call_soon_threadsafe(callback, *arguments)

    async def generate(self, _prompt, _sampling, _generation_id, _trace_headers):
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
    def __init__(self, rest_seconds=0.0):
        self.sent = []
        self.ended = threading.Event()
        self._rest_seconds = rest_seconds

    async def send(self, tensors, *, final):
        self.sent.append((tensors["text_output"][0].decode(), final))
        if final:
            self.ended.set()
        return self._rest_seconds

    async def pulse(self):
        self.sent.append(("pulse", False))

    def fail(self, error):
        self.sent.append((str(error), True))
        self.ended.set()


def output(text, *, finished=False, index=0):
    completion = SimpleNamespace(
        index=index,
        text=text,
        finish_reason="stop" if finished else None,
        cumulative_logprob=None,
        logprobs=None,
        token_ids=[7],
    )
    times = SimpleNamespace(queued_ts=1.0, scheduled_ts=1.5, first_token_ts=3.0, last_token_ts=7.0)
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
    generations_module = generations
    engines = []

    def run_generation(
        outputs,
        *,
        timeout_seconds=None,
        stop_after_seconds=None,
        drain_error=None,
        rest_seconds=0.0,
        **request_options,
    ):
        engines.append(FakeEngine(outputs))
        generations = generations_module.Generations(engines[-1])
        replies = Replies(rest_seconds)
        defaults = {"echo": False, "text": "", "optional_outputs": frozenset(), "received_seconds": None}
        request = SimpleNamespace(**(defaults | {"stream": False} | request_options))
        generation = generations_module.Generation(
            id=generations.new_id("a"),
            request=request,
            prompt=SimpleNamespace(token_ids=[1, 2]),
            sampling=SimpleNamespace(n=1),
            timeout_seconds=timeout_seconds,
            replies=replies,
        )
        generations.start(generation)
        if drain_error is not None:
            generations.stop_all(drain_error)
        if stop_after_seconds is not None:
            time.sleep(stop_after_seconds)
            generations.stop(generation.id)
            generations.stop("never was")
        assert replies.ended.wait(timeout=10)
        assert sum(final for _, final in replies.sent) == 1
        return replies.sent

    yield run_generation
    for engine in engines:
        engine.stop()


def test_deltas_end_with_the_final_one(run):
    assert run([output("a"), output("b", finished=True)]) == [("a", False), ("b", True)]


def test_what_comes_while_a_caller_rests_is_joined_and_the_end_does_not_wait(run):
    outputs = [output("a"), output("b"), output("c"), 0.4, output("d"), output("e"), output("f", finished=True)]
    assert run(outputs, rest_seconds=0.3) == [("a", False), ("bcd", False), ("ef", True)]


@pytest.mark.parametrize("stream", [True, False])
def test_behind_a_relay_there_is_a_pulse_while_there_is_nothing_new(run, monkeypatch, stream):
    monkeypatch.setattr(generations, "PULSE_SECONDS", 0.01)
    outputs = [output("a"), 0.5, output("b", finished=True)]
    texts = [text for text, _ in run(outputs, stream=stream, received_seconds=1.0)]
    assert texts.count("pulse") >= 2
    assert [text for text in texts if text != "pulse"] == ["a", "b"]
    assert run(outputs, stream=stream) == [("a", False), ("b", True)]


def test_a_failing_engine_fails_the_request(run):
    unavailable = errors.Unavailable
    assert run([output("a"), unavailable("the engine process has died")]) == [
        ("a", False),
        ("UNAVAILABLE: the engine process has died", True),
    ]
    assert run([KeyError("x")]) == [("INTERNAL: KeyError: 'x'", True)]


def test_the_requests_timeout_ends_it(run):
    assert run([output("a"), 30.0], timeout_seconds=0.05)[-1] == (
        "DEADLINE_EXCEEDED: the request's timeout of 0.05 s passed",
        True,
    )


@pytest.mark.parametrize("stop_after_seconds", [0.0, 0.1])
def test_stopping_ends_it_even_before_its_first_step(run, stop_after_seconds):
    assert run([30.0], stop_after_seconds=stop_after_seconds) == [("CANCELLED: the request was cancelled", True)]


def test_a_drain_that_takes_too_long_ends_it_with_its_own_error(run):
    stopped = errors.Unavailable("this server stopped")
    assert run([30.0], drain_error=stopped) == [("UNAVAILABLE: this server stopped", True)]


def test_ids_are_unique_whatever_the_callers_send():
    generations = generations.Generations(SimpleNamespace())
    assert len({generations.new_id(""), generations.new_id(""), generations.new_id("a"), generations.new_id("a")}) == 4


def test_replies_hold_what_was_asked_for():
    request = SimpleNamespace(
        echo=True, text="Q", optional_outputs={"finish_reason", "num_output_tokens", "stage_seconds"}
    )
    tensors = replies.reply_tensors(
        request, output("A", finished=True, index=1), num_input_tokens=2, num_sequences=2, encode_seconds=0.25
    )
    assert set(tensors) == {"text_output", "finish_reason", "num_output_tokens", "stage_seconds"}
    assert tensors["text_output"].tolist() == [b"", b"QA"]
    assert tensors["finish_reason"].tolist() == [b"None", b"stop"]
    assert np.array_equal(tensors["num_output_tokens"], np.array([0, 1], np.uint32))
    assert tensors["stage_seconds"].tolist() == [b'{"encode": 0.25, "queue": 0.5, "prefill": 1.5, "decode": 4.0}']


class Sender:
    """Triton's response sender."""

    def __init__(self, *, fails=False):
        self.sent, self.cancelled, self._fails = [], False, fails

    def is_cancelled(self):
        return self.cancelled

    def send(self, response, flags):
        if self._fails:
            raise RuntimeError("connection gone")
        self.sent.append((dict(response.tensors), str(response.error or ""), flags))


@pytest.fixture
def outbox():
    box = responses.Outbox(lambda: None)
    box.start()
    yield box
    box.stop()


def open_caller(outbox, sender, *, has_relay=False, on_gone=lambda: None, on_end=lambda _error: None):
    return outbox.open(sender, generation_id="a-1", has_relay=has_relay, on_gone=on_gone, on_end=on_end)


def test_behind_a_relay_an_error_is_a_tensor_so_that_it_overtakes_nothing(outbox):
    sender = Sender()
    ends = []
    gone = errors.Cancelled("gone")
    open_caller(outbox, sender, has_relay=True, on_end=ends.append).fail(gone)
    outbox.stop()
    assert ends == [gone]
    ((tensors, error, flags),) = sender.sent
    assert (error, flags) == ("", 1)
    assert tensors["error"].tolist() == [b"CANCELLED: gone"]
    assert tensors["generation_id"].tolist() == [b"a-1"]


def test_the_outbox_keeps_order_and_sends_error_and_end_together(outbox):
    sender = Sender()
    caller = open_caller(outbox, sender)
    asyncio.run(caller.send({"text_output": np.array([b"a"], np.object_)}, final=False))
    caller.fail(errors.Unavailable("later"))
    outbox.stop()
    assert [(error, flags) for _, error, flags in sender.sent] == [("", 0), ("UNAVAILABLE: later", 1)]


def test_nothing_follows_the_final_response(outbox):
    sender = Sender()
    ends = []
    caller = open_caller(outbox, sender, on_end=ends.append)
    asyncio.run(caller.send({}, final=True))
    caller.fail(errors.Cancelled("too late"))
    outbox.stop()
    assert [(error, flags) for _, error, flags in sender.sent] == [("", 1)]
    assert ends == [None]


def test_a_caller_who_has_gone_is_noticed_without_a_response(outbox):
    gone = threading.Event()
    sender = Sender()
    open_caller(outbox, sender, on_gone=gone.set)
    assert not gone.wait(timeout=0.2)
    sender.cancelled = True
    assert gone.wait(timeout=5)


class SlowSender(Sender):
    def __init__(self, seconds):
        super().__init__()
        self.seconds = seconds

    def send(self, response, flags):
        time.sleep(self.seconds)
        super().send(response, flags)


def rests(callers):
    async def send():
        return await asyncio.gather(*(caller.send({}, final=False) for caller in callers))

    return asyncio.run(send())


def test_callers_take_turns(outbox):
    module = responses
    taken_seconds = 0.8 * module.MAX_REST_SECONDS / 4 / module.REST
    first, *_, last = rests([open_caller(outbox, SlowSender(taken_seconds)) for _ in range(4)])
    assert first >= module.REST * taken_seconds
    # Turns are counted from the first's on, the rests from when each was sent.
    assert last >= (4 * module.REST - 3) * taken_seconds


def test_no_rest_is_longer_than_the_longest(outbox):
    module = responses
    callers = [open_caller(outbox, SlowSender(0.05)) for _ in range(4)]
    assert rests(callers) == pytest.approx([module.MAX_REST_SECONDS] * 4)


def test_one_broken_sender_does_not_stop_the_others(outbox, monkeypatch):
    logged = []
    triton = sys.modules["triton_python_backend_utils"]
    monkeypatch.setattr(triton, "Logger", SimpleNamespace(log_error=logged.append), raising=False)
    broken, whole = Sender(fails=True), Sender()
    asyncio.run(open_caller(outbox, broken).send({}, final=True))
    asyncio.run(open_caller(outbox, whole).send({}, final=True))
    outbox.stop()
    assert len(whole.sent) == 1
    assert "connection gone" in logged[0]
