"""Two real servers behind a real Envoy with the configuration of the overlay `proxy`, as pods that come and go."""

import random
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import count
from types import TracebackType
from typing import Any, Self

import numpy as np
import pytest
from support import slow_steps
from support.certificates import Authority
from support.envoy import Proxy, free_ports, running_proxy, wait_until
from support.pods import Pod
from video_llava_client import VideoLlava, VideoLlavaError

ENCODED = "nv_cache_num_misses_per_model{video_encoder}"
KNOWN = "nv_cache_num_hits_per_model{video_encoder}"
FRAMES = "video_llava:video_frames_total{intake}"
ARRIVED = "video_llava:requests_total{intake}"
ANSWERED = "vllm:request_success_total{vicuna}"

NUM_CALLERS = 2
# A slow step each: longer than a pod that is to go goes on taking requests, so that the drain has to wait for it.
NUM_LONG_TOKENS = 250

_seeds = count(20_261_125)


class Cluster:
    """The proxy, and the pods that it finds."""

    def __init__(self, proxy: Proxy, pods: list[Pod], new_pod: Callable[[str], Pod]) -> None:
        self.proxy = proxy
        self.pods = pods
        self._new_pod = new_pod
        self._addresses = (f"127.0.0.{number}" for number in count(4))

    def grown(self, name: str, before: list[dict[str, float]]) -> list[float]:
        """How much a counter has grown on each pod."""
        return [pod.metrics()[name] - was[name] for pod, was in zip(self.pods, before, strict=True)]

    def metrics(self) -> list[dict[str, float]]:
        return [pod.metrics() for pod in self.pods]

    def num_answered(self) -> int:
        """Of all requests that have ended, by the pods there are."""
        time.sleep(1)  # an engine publishes its counters a moment after the answers
        return sum(pod.num_answered() for pod in self.pods)

    def replace(self, old: Pod) -> int:
        """Let a pod go as Kubernetes does, and the one in its place have its share; how many the old one answered."""
        self._publish(pod for pod in self.pods if pod is not old)
        old.leave()
        num_answered = old.num_answered()
        old.stop()
        assert old.stopped_cleanly
        new = self._new_pod(next(self._addresses))
        self.pods[self.pods.index(old)] = new
        new.start()
        self._publish(self.pods)
        self.proxy.wait_for_healthy(*(pod.address for pod in self.pods))
        wait_until(lambda: new.num_answered() > 0)
        return num_answered

    def _publish(self, pods: Iterable[Pod]) -> None:
        self.proxy.pods.addresses = tuple(pod.address for pod in pods)


@pytest.fixture(scope="module")
def cluster(repository, tmp_path_factory) -> Iterator[Cluster]:
    ports = free_ports("grpc", "http", "metrics")

    def new_pod(address: str) -> Pod:
        return Pod(repository, address, ports)

    pods = [new_pod("127.0.0.2"), new_pod("127.0.0.3")]
    try:
        for pod in pods:  # two that start at once on two cores can take minutes
            pod.start()
        folder = tmp_path_factory.mktemp("proxy")
        addresses = [pod.address for pod in pods]
        with running_proxy(folder, Authority("clients of this cluster"), *addresses, ports=ports) as proxy:
            yield Cluster(proxy, pods, new_pod)
    finally:
        with ThreadPoolExecutor() as threads:
            list(threads.map(Pod.stop, pods))


@pytest.fixture(scope="module")
def client(cluster) -> Iterator[VideoLlava]:
    with cluster.proxy.client() as connected:
        yield connected


def new_video() -> np.ndarray:
    return np.random.default_rng(next(_seeds)).integers(0, 256, (8, 56, 56, 3), np.uint8)


def test_questions_over_one_channel_are_spread(cluster, client, wait_for):
    before = cluster.metrics()
    for _ in range(24):
        client.ask("Hello?", max_tokens=1)
    wait_for(lambda: sum(cluster.grown(ANSWERED, before)) == 24)
    assert min(cluster.grown(ANSWERED, before)) >= 1


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


# A rolling restart


@dataclass
class Question:
    """What is asked, and the tokens of its answer if they are known already."""

    text: str
    media: dict[str, Any]
    max_tokens: int
    token_ids: tuple[int, ...] = ()

    def options(self, *, slowly: bool = False) -> dict[str, Any]:
        sampling = {"ignore_eos": True} | ({"seed": slow_steps.SEED} if slowly else {})
        return {**self.media, "max_tokens": self.max_tokens, "temperature": 0, "sampling": sampling}


@dataclass
class Asked:
    """One time that a question was asked, and what came of it."""

    question: Question
    token_ids: tuple[int, ...] = ()
    finish_reasons: list[str] = field(default_factory=list)
    error: VideoLlavaError | None = None

    def ask(self, client: VideoLlava, *, slowly: bool, on_begin: Callable[[], object]) -> None:
        try:
            with client.stream(self.question.text, **self.question.options(slowly=slowly)) as stream:
                for delta in stream:
                    on_begin()
                    self.token_ids += delta.token_ids
                    self.finish_reasons += filter(None, [delta.finish_reason])
        except VideoLlavaError as exc:
            self.error = exc


class Load:
    """Callers who ask one question after the other, with the client's own retries, inside of a `with` block."""

    def __init__(self, client: VideoLlava, questions: list[Question]) -> None:
        self.asked: list[Asked] = []
        self._client = client
        self._questions = questions
        self._end = threading.Event()
        self._threads: list[threading.Thread] = []

    def __enter__(self) -> Self:
        for number in range(NUM_CALLERS):
            self._start(self._call, number)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end.set()
        for thread in self._threads:
            thread.join(timeout=120)
        assert not any(thread.is_alive() for thread in self._threads)

    def begin_long_stream(self, question: Question) -> None:
        """Return once the first token has come."""
        begun = threading.Event()
        self._start(lambda: self._ask(question, slowly=True, on_begin=begun.set))
        assert begun.wait(timeout=60)

    def _start(self, target: Callable[..., None], *arguments: Any) -> None:
        thread = threading.Thread(target=target, args=arguments)
        self._threads.append(thread)
        thread.start()

    def _call(self, number: int) -> None:
        choose = random.Random(number)
        while not self._end.wait(choose.uniform(0.5, 1.5)):
            self._ask(choose.choice(self._questions))

    def _ask(self, question: Question, *, slowly: bool = False, on_begin: Callable[[], object] = lambda: None) -> None:
        asked = Asked(question)
        self.asked.append(asked)
        asked.ask(self._client, slowly=slowly, on_begin=on_begin)


def known_questions(client: VideoLlava) -> list[Question]:
    media = [*({"video": new_video()} for _ in range(4)), *({} for _ in range(4))]
    questions = [Question(f"What of {number}?", each, max_tokens=12) for number, each in enumerate(media)]
    for question in questions:
        question.token_ids = client.ask(question.text, **question.options()).token_ids
    return questions


def begin_long_stream_on(pod: Pod, load: Load) -> None:
    """Whose a video is, only the proxy knows: ask about new ones until it is this pod's."""
    num_encoded = pod.metrics()[ENCODED]
    while pod.metrics()[ENCODED] == num_encoded:
        load.begin_long_stream(Question("What happens?", {"video": new_video()}, max_tokens=NUM_LONG_TOKENS))


@pytest.mark.timeout(900)
def test_a_rolling_restart_costs_no_request(cluster, client):
    questions = known_questions(client)
    before = cluster.num_answered()
    num_answered_by_old = 0
    with Load(client, questions) as load:
        for pod in list(cluster.pods):
            begin_long_stream_on(pod, load)
            num_answered_by_old += cluster.replace(pod)
    assert [asked.error for asked in load.asked if asked.error] == []
    # Once each, by whichever of the four.
    assert num_answered_by_old + cluster.num_answered() - before == len(load.asked)

    for asked in load.asked:
        question = asked.question
        question.token_ids = question.token_ids or client.ask(question.text, **question.options()).token_ids
        assert asked.token_ids == question.token_ids
        assert asked.finish_reasons == ["length"]
