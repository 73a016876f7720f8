"""Runs on the fake server: what arrives there, and that the report says the same."""

from collections import Counter
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from support.load import scenario
from video_llava_client import OptionError, ServerInfo
from video_llava_client.testing import FakeServer, Hang, Refuse, Reply
from video_llava_client.testing.server import LIMITS
from video_llava_load import users
from video_llava_load.load import Load, connected
from video_llava_load.metrics import summarize
from video_llava_load.requests import ANSWERED, CANCELLED, FAILED, UNFINISHED
from video_llava_load.scenario import Mix, Phase, Requests

SERVER = ServerInfo("127.0.0.1:1", "2.51.0", (), None)
LONG = Reply("word " * 40)


def test_every_kind_arrives_and_the_report_counts_what_the_server_saw(server, run):
    server.then(LONG)
    outcome = run(scenario(Phase(seconds=2, rate=(15, 15))))
    # Before the run, one question about each of the two warm videos.
    primed, asked = server.requests[:2], server.requests[2:]
    assert [request.sampling["max_tokens"] for request in primed] == [1, 1]
    assert len(outcome.records) == len(asked) > 3
    figures = summarize(outcome.measured, outcome.scenario.objectives)
    assert (figures["answered_count"], figures["sent_count"]) == (len(asked), len(asked))
    assert figures["output_tokens_count"] == sum(request.sampling["max_tokens"] for request in asked)

    kinds = Counter(record.kind for record in outcome.records)
    media = Counter(request.num_media for request in asked)
    assert media == {
        (1, 0): kinds["video_cold"] + kinds["video_warm"] + kinds["chat"],
        (0, 1): kinds["image"],
        (0, 0): kinds["text"],
    }
    later = sum(record.turn > 1 for record in outcome.records)
    assert sum("</s>USER:" in request.prompt for request in asked) == later
    warm = {request.video_frames.tobytes() for request in primed}
    clips = Counter(request.video_frames.tobytes() for request in asked if request.num_media == (1, 0))
    assert sum(clips[clip] for clip in warm) == kinds["video_warm"]
    cold = [number for clip, number in clips.items() if clip not in warm]
    assert sum(cold) == kinds["video_cold"] + kinds["chat"]
    # A cold video comes once; a conversation's comes with each of its turns.
    assert len(cold) == sum(r.turn == 1 for r in outcome.records if r.kind in ("video_cold", "chat"))


def test_the_server_sees_a_cancel(server, run):
    server.then(Hang(after_tokens=2, reply=LONG))
    leaving = Requests(output_tokens=(9, 9), cancel_share=1.0, cancel_after_tokens=(2, 2))
    outcome = run(scenario(Phase(seconds=1, rate=(8, 8)), mix=Mix(text=1), requests=leaving))
    assert {record.outcome for record in outcome.records} == {CANCELLED}
    assert {record.num_output_tokens for record in outcome.records} == {2}
    assert all(request.cancelled.wait(20) for request in server.requests)


def test_each_caller_has_an_adapter_in_turn():
    with FakeServer(LONG, limits=replace(LIMITS, lora_names=("red", "blue"))) as server:
        requests = Requests(lora_names=("red", "", "blue"))
        wanted = scenario(Phase(seconds=2, rate=(15, 15)), mix=Mix(text=1), requests=requests)
        with connected(wanted, {"url": server.url}) as load:
            outcome = load.run()
    assert {record.outcome for record in outcome.records} == {ANSWERED}
    asked = Counter(request.sampling.get("lora_name") for request in server.requests)
    assert asked == Counter(("red", None, "blue")[record.caller % 3] for record in outcome.records)
    assert len(asked) == 3


def test_open_loop_callers_do_not_wait_and_the_drain_has_an_end(server, run):
    server.then(Hang())
    outcome = run(scenario(Phase(seconds=1, rate=(20, 20)), mix=Mix(text=1), drain_seconds=0.1))
    # A stall of the machine may keep the last ones from the server.
    assert len(outcome.records) >= len(server.requests) > 2
    assert {record.outcome for record in outcome.records} == {UNFINISHED}
    assert all(request.cancelled.wait(20) for request in server.requests)


def test_closed_loop_callers_wait_for_theirs():
    most = 0

    def script(_request) -> Reply:
        nonlocal most
        most = max(most, server.num_open_streams)
        return Reply("a b c", seconds_per_token=0.01)

    with FakeServer(script=script) as server:
        wanted = scenario(Phase(seconds=3, users=(3, 3)), mix=Mix(text=1))
        with connected(wanted, {"url": server.url}) as load:
            outcome = load.run()
    assert len(outcome.records) == len(server.requests) > 3
    assert 1 <= most <= 3


def test_failures_are_counted_by_reason(server, run):
    server.then(Refuse("UNAVAILABLE: 64 requests wait already: try later"))
    outcome = run(scenario(Phase(seconds=1, rate=(10, 10)), mix=Mix(text=1, chat=1)))
    (error,) = summarize(outcome.measured, outcome.scenario.objectives)["errors"]
    assert (error["reason"], error["count"]) == ("Unavailable", len(server.requests))
    assert "64 requests wait" in error["example"]
    # Nothing was asked twice, and a conversation ends where it fails.
    assert {(record.outcome, record.turn) for record in outcome.records} == {(FAILED, 1)}


def test_conversations_do_not_outlast_the_run_by_more_than_a_turn(server, run):
    chatty = Requests(output_tokens=(2, 2), turns=(500, 500), think_seconds=(0.05, 0.05))
    outcome = run(scenario(Phase(seconds=1, users=(2, 2)), mix=Mix(chat=1), requests=chatty))
    assert {record.outcome for record in outcome.records} == {ANSWERED}
    assert 2 < len(server.requests) < 500


def test_arrivals_are_poisson_at_the_rate_of_the_moment(monkeypatch):
    clock = SimpleNamespace(now=0.0, records=[])
    load: Any = Load(scenario(Phase(seconds=100, rate=(0, 10))), SERVER, clock, None)  # pyright: ignore[reportArgumentType]
    pauses, arrived = [], []
    monkeypatch.setattr(users.gevent, "sleep", pauses.append)
    monkeypatch.setattr(load, "arrive", lambda: arrived.append(clock.now))
    for clock.now in (0, 25, 50, 99):
        for _ in range(4000):
            users.Source.arrive(SimpleNamespace(load=load))  # pyright: ignore[reportArgumentType]
    # Exponential intervals have a standard deviation equal to their mean: 1 s, of ten sources.
    assert (np.mean(pauses), np.std(pauses)) == pytest.approx((1, 1), abs=0.05)
    kept = [arrived.count(seconds) / 4000 for seconds in (0, 25, 50, 99)]
    assert kept == pytest.approx([0, 0.25, 0.5, 0.99], abs=0.04)


def test_a_taken_port_is_an_error(server, run):
    port = int(server.url.rpartition(":")[2])
    with pytest.raises(OptionError, match=f"--web-port {port} cannot be listened on"):
        run(scenario(Phase(seconds=1, rate=(1, 1))), web_port=port)
