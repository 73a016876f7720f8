"""Two servers of the trained checkpoint as pods behind a real Envoy with the configuration of the overlay `proxy`."""

import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from support.certificates import Authority
from support.envoy import Proxy, free_ports, running_proxy
from support.export import export
from support.pods import Pod
from support.waiting import wait_until
from video_llava_client import VideoLlava

TRAINED = Path(__file__).parents[2] / "tiny" / "checkpoint"


class Cluster:
    """The proxy, and the pods that it finds."""

    def __init__(self, proxy: Proxy, pods: list[Pod], new_pod: Callable[[], Pod]) -> None:
        self.proxy = proxy
        self.pods = pods
        self._new_pod = new_pod

    def metrics(self) -> list[dict[str, float]]:
        return [pod.metrics() for pod in self.pods]

    def grown(self, name: str, before: list[dict[str, float]]) -> list[float]:
        """How much a counter has grown on each pod."""
        return [now[name] - was[name] for now, was in zip(self.metrics(), before, strict=True)]

    def num_answered(self) -> int:
        """Requests answered by all pods, once their counters, which follow the answers a moment later, stand still."""
        last = -1
        while (now := sum(pod.num_answered() for pod in self.pods)) != last:
            last = now
            time.sleep(1)
        return now

    def remove(self, old: Pod) -> int:
        """Let a pod go as Kubernetes does; return how many requests it has answered."""
        self._publish(pod for pod in self.pods if pod is not old)
        old.leave()
        num_answered = old.num_answered()
        old.stop()
        self.pods.remove(old)
        return num_answered

    def add(self) -> None:
        """Start one more pod; return when it has answered something."""
        new = self._new_pod()
        self.pods.append(new)
        new.start()
        self._publish(self.pods)
        self.proxy.wait_for_healthy(*(pod.address for pod in self.pods))
        wait_until(lambda: new.num_answered() > 0)

    def _publish(self, pods: Iterable[Pod]) -> None:
        self.proxy.pods.addresses = tuple(pod.address for pod in pods)


@pytest.fixture(scope="session")
def trained_checkpoint() -> Path:
    return TRAINED


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    folder = tmp_path_factory.mktemp("cluster")
    model = export(TRAINED, folder)
    ports = free_ports("grpc", "http", "metrics")
    addresses = (f"127.0.0.{number}" for number in range(2, 9))

    def new_pod() -> Pod:
        return Pod(model, next(addresses), ports)

    pods = [new_pod(), new_pod()]
    try:
        with ThreadPoolExecutor() as threads:
            list(threads.map(Pod.start, pods))
        started = [pod.address for pod in pods]
        with running_proxy(folder, Authority("clients of this cluster"), *started, ports=ports) as proxy:
            yield Cluster(proxy, pods, new_pod)
    finally:
        for pod in pods:
            pod.stop()


@pytest.fixture(scope="session")
def client(cluster: Cluster) -> Iterator[VideoLlava]:
    with cluster.proxy.client() as connected:
        yield connected
