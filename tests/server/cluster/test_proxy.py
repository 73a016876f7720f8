"""Requests through the proxy reach the right pod, and a rolling restart or a dead engine costs what it must."""

import pytest
from support.callers import Caller
from support.launcher import find_engine, probe
from support.pods import Pod
from support.questions import Load, Question, known_questions, new_video
from support.triton import metrics
from video_llava_client import Retry, Unavailable, VideoLlava
from video_llava_serve import ServerDiedError

ENCODED = "nv_cache_num_misses_per_model{video_features}"
KNOWN = "nv_cache_num_hits_per_model{video_features}"
FRAMES = "video_llava:video_frames_total{intake}"
ARRIVED = "video_llava:requests_total{intake}"
ENGINE_UP = "video_llava:engine_up{vicuna}"

# A slow step each: longer than a pod goes on taking requests before its stop, so that the drain has to wait.
NUM_LONG_TOKENS = 250


def test_questions_over_one_channel_are_spread(cluster, client):
    before = cluster.metrics()
    for _ in range(24):
        client.ask("Hello?", max_tokens=1)
    assert sum(cluster.grown(ARRIVED, before)) == 24
    assert min(cluster.grown(ARRIVED, before)) >= 1


def test_new_videos_are_spread(cluster, client):
    before = cluster.metrics()
    for _ in range(24):
        client.ask("What happens?", video=new_video(), max_tokens=1)
    assert sum(cluster.grown(FRAMES, before)) == 24 * 8
    assert min(cluster.grown(FRAMES, before)) >= 8


def test_a_repeated_video_goes_to_the_server_that_has_it(cluster, client):
    video = new_video()
    before = cluster.metrics()
    client.ask("What happens?", video=video, max_tokens=1)
    encoded = cluster.grown(ENCODED, before)
    assert sorted(encoded) == [0, 1]
    owner = encoded.index(1)
    for question in ("And then?", "How many?", "Where?", "Who?"):
        assert client.ask(question, video=video, max_tokens=1).num_cached_tokens > 0
    assert cluster.grown(ENCODED, before) == encoded
    assert cluster.grown(KNOWN, before)[owner] == 4
    # Nothing of it came to the other one.
    for name in (ENCODED, KNOWN, FRAMES, ARRIVED):
        assert cluster.grown(name, before)[1 - owner] == 0


def begin_long_stream_on(pod: Pod, load: Load) -> None:
    """Only the proxy knows whose a video is: ask about new ones until it is this pod's."""
    num_encoded = pod.metrics()[ENCODED]
    while pod.metrics()[ENCODED] == num_encoded:
        load.begin_long_stream(Question("What happens?", {"video": new_video()}, max_tokens=NUM_LONG_TOKENS))


@pytest.mark.timeout(600)
def test_a_rolling_restart_costs_no_request(cluster, client):
    """One pod goes and another comes, then the second goes: three of Kubernetes' steps, at one start of an engine."""
    questions = known_questions(client)
    before = cluster.num_answered()
    num_answered_by_old = 0
    with Load(client, questions) as load:
        for number, pod in enumerate(list(cluster.pods)):
            begin_long_stream_on(pod, load)
            num_answered_by_old += cluster.remove(pod)
            if number == 0:
                cluster.add()
    assert [asked.error for asked in load.asked if asked.error] == []
    # Once each, by whichever pod.
    assert num_answered_by_old + cluster.num_answered() - before == len(load.asked)

    for asked in load.asked:
        question = asked.question
        question.token_ids = question.token_ids or client.ask(question.text, **question.options()).token_ids
        assert asked.token_ids == question.token_ids
        assert asked.finish_reasons == ["length"]


def test_a_dead_engine_ends_what_runs_and_is_named(cluster, wait_for):
    """The last test of this cluster: without a supervisor nobody starts the engine again."""
    pod = cluster.pods.pop()
    assert probe(pod.server.grpc_url) == 0
    with VideoLlava(pod.server.grpc_url, retry=Retry(num_attempts=1)) as direct:
        caller = Caller(direct)
        caller.wait_for_a_token()
        assert metrics(pod.server.metrics_url)[ENGINE_UP] == 1
        find_engine(pod.server.pid).kill()
        assert probe(pod.server.grpc_url) == 1
        caller.join()
        with pytest.raises(Unavailable) as refused:
            direct.ask("What?", max_tokens=1)
    assert isinstance(caller.error, Unavailable)
    assert caller.error.reason == refused.value.reason == "engine_dead"
    wait_for(lambda: metrics(pod.server.metrics_url)[ENGINE_UP] == 0)
    with pytest.raises(ServerDiedError, match="vLLM's process VLLM::EngineCore has died"):
        pod.server.wait()
