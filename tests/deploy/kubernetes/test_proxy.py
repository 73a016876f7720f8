"""A real Envoy with the overlay's own configuration, between our client and fake servers on the loopback network."""

import contextlib
import http.server
import json
import re
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from pathlib import Path

import grpc
import numpy as np
import pytest
import yaml
from support.certificates import Authority
from support.kubernetes import render
from video_llava_client import Retry, Tls, Unavailable, VideoLlava, VideoLlavaError
from video_llava_client.testing import FakeServer, Reply

ENVOY = Path(sys.executable).with_name("envoy")
REPLICAS = ("127.0.0.2", "127.0.0.3", "127.0.0.4")
WAIT_SECONDS = 60
FRAMES = np.zeros((8, 56, 56, 3), np.uint8)


class Replica:
    """What Envoy sees of a pod: gRPC, and Triton's readiness over HTTP on another port."""

    def __init__(self, address, ports):
        self.address = address
        self.is_ready = True
        self.grpc = FakeServer(Reply("An answer."), address=address, port=ports["grpc"])
        replica = self

        class Health(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                knows = self.path == "/v2/health/ready"
                self.send_response(404 if not knows else 200 if replica.is_ready else 400)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, format, *args):  # noqa: A002 (its parent's names)
                pass

        self._http = http.server.ThreadingHTTPServer((address, ports["http"]), Health)

    def __enter__(self):
        self.grpc.start()
        threading.Thread(target=self._http.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_error):
        self._http.shutdown()
        self._http.server_close()
        self.grpc.stop()

    @property
    def num_requests(self):
        return len(self.grpc.requests)


def free_ports(*names):
    """Ports that are free on every replica's address."""
    with contextlib.ExitStack() as stack:
        ports = {}
        for name in names:
            probe = stack.enter_context(socket.socket())
            probe.bind(("0.0.0.0", 0))
            ports[name] = probe.getsockname()[1]
        return ports


def configuration(folder, ports):
    """The rendered one; only names and ports are those of this machine."""
    manifests = render("overlays/proxy")
    (text,) = (item["data"]["envoy.yaml"] for item in manifests.of("ConfigMap"))
    envoy = json.loads(json.dumps(yaml.safe_load(re.sub(r"/tls(?=[/ ])", str(folder), text))))  # no part in two places
    for listener, port in zip(envoy["static_resources"]["listeners"], (ports["proxy"], ports["health"]), strict=True):
        listener["address"]["socket_address"] = {"address": "127.0.0.1", "port_value": port}
    envoy["admin"]["address"]["socket_address"]["port_value"] = ports["admin"]
    for cluster in envoy["static_resources"]["clusters"]:
        (pods,) = (group["lb_endpoints"] for group in cluster["load_assignment"]["endpoints"])
        endpoint = pods[0]["endpoint"]
        assert endpoint["address"]["socket_address"] == {"address": "video-llava-headless", "port_value": 8001}
        assert endpoint["health_check_config"] == {"port_value": 8000}
        cluster["type"] = "STATIC"
        pods[:] = [{"endpoint": place(address, ports)} for address in REPLICAS]
    path = folder / "envoy.yaml"
    path.write_text(yaml.safe_dump(envoy), encoding="utf-8")
    return path


def place(address, ports):
    return {
        "address": {"socket_address": {"address": address, "port_value": ports["grpc"]}},
        "health_check_config": {"port_value": ports["http"]},
    }


class Proxy:
    """A running Envoy, and who may talk to it."""

    def __init__(self, process, ports, replicas, tls, log):
        self._process = process
        self.url = f"127.0.0.1:{ports['proxy']}"
        self.health = f"http://127.0.0.1:{ports['health']}"
        self.replicas = replicas
        self.tls = tls
        self.log = log
        self._admin = f"http://127.0.0.1:{ports['admin']}"

    def client(self, **options):
        return VideoLlava(self.url, **{"tls": self.tls, "retry": Retry(num_attempts=1), **options})

    def counts(self):
        return [replica.num_requests for replica in self.replicas]

    def wait_for_healthy(self, count):
        """Until Envoy takes so many replicas for healthy, for both ways."""
        wait_until(lambda: self._num_healthy() == [count, count])

    def _num_healthy(self):
        assert self._process.poll() is None, self.log.read_text()
        with urllib.request.urlopen(f"{self._admin}/clusters?format=json", timeout=5) as response:
            clusters = json.load(response)["cluster_statuses"]
        return [
            sum(host["health_status"].get("failed_active_health_check") is None for host in cluster["host_statuses"])
            for cluster in clusters
        ]


def wait_until(condition):
    ends = time.monotonic() + WAIT_SECONDS
    while time.monotonic() < ends:
        with contextlib.suppress(OSError):
            if condition():
                return
        time.sleep(0.1)
    raise AssertionError(f"not within {WAIT_SECONDS} s")


@pytest.fixture(scope="module")
def authority():
    return Authority("clients of this cluster")


@pytest.fixture(scope="module")
def running(tmp_path_factory, authority):
    folder = tmp_path_factory.mktemp("tls")
    server = authority.sign("127.0.0.1")
    for name, content in (("tls.crt", server.certificate), ("tls.key", server.key), ("ca.crt", authority.certificate)):
        (folder / name).write_bytes(content)
    ports = free_ports("proxy", "health", "admin", "grpc", "http")
    client = authority.sign("client")
    tls = Tls(root_certificates=authority.certificate, certificate=client.certificate, key=client.key)
    log = folder / "log"
    with contextlib.ExitStack() as stack:
        replicas = [stack.enter_context(Replica(address, ports)) for address in REPLICAS]
        command = [ENVOY, "--config-path", configuration(folder, ports), "--concurrency", "1", "--disable-hot-restart"]
        with log.open("wb") as file:
            envoy = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT)
        stack.callback(stop, envoy)

        proxy = Proxy(envoy, ports, replicas, tls, log)
        proxy.wait_for_healthy(len(REPLICAS))
        yield proxy


def stop(process):
    process.terminate()
    try:
        process.wait(timeout=20)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


@pytest.fixture
def proxy(running):
    for replica in running.replicas:
        replica.is_ready = True
        replica.grpc.requests.clear()
    running.wait_for_healthy(len(REPLICAS))
    return running


def test_a_repeated_video_goes_to_the_replica_that_has_it(proxy):
    with proxy.client() as client:
        for _ in range(12):
            assert client.ask("What happens?", video=FRAMES).text == "An answer."
    assert sorted(proxy.counts()) == [0, 0, 12]


def test_the_same_replica_for_every_client(proxy):
    for _ in range(4):
        with proxy.client() as client:
            client.ask("What happens?", video=FRAMES)
    assert sorted(proxy.counts()) == [0, 0, 4]


def test_other_videos_go_to_other_replicas(proxy):
    with proxy.client() as client:
        for shade in range(40):
            client.ask("What happens?", video=FRAMES + np.uint8(shade))
    assert sum(proxy.counts()) == 40
    assert min(proxy.counts()) >= 1


def test_questions_over_one_channel_are_spread(proxy):
    with proxy.client() as client:
        for _ in range(30):
            client.ask("Hello?")
    assert sum(proxy.counts()) == 30
    assert min(proxy.counts()) >= 1, "a channel stays with no replica"


def test_a_replica_that_is_not_ready_gets_nothing(proxy):
    with proxy.client() as client:
        client.ask("What happens?", video=FRAMES)
        (owner,) = (replica for replica in proxy.replicas if replica.num_requests)
        owner.is_ready = False
        proxy.wait_for_healthy(2)
        for _ in range(6):
            client.ask("What happens?", video=FRAMES)
        assert owner.num_requests == 1
        # One other has it cached from now on.
        assert sorted(Counter(proxy.counts()).elements()) == [0, 1, 6]


def test_nobody_ready_is_said(proxy):
    for replica in proxy.replicas:
        replica.is_ready = False
    proxy.wait_for_healthy(0)
    with pytest.raises(urllib.error.HTTPError, match="503"):
        urllib.request.urlopen(f"{proxy.health}/ready", timeout=5)
    with proxy.client() as client, pytest.raises(Unavailable):
        client.ask("Hello?")
    assert sum(proxy.counts()) == 0


def test_kubelet_asks_in_plain_http(proxy):
    for path in ("/ready", "/live"):
        with urllib.request.urlopen(f"{proxy.health}{path}", timeout=5) as response:
            assert response.status == 200


@pytest.mark.parametrize(
    "method", ["RepositoryIndex", "RepositoryModelLoad", "SystemSharedMemoryRegister", "TraceSetting"]
)
def test_the_operators_methods_are_closed(proxy, method):
    credentials = grpc.ssl_channel_credentials(*proxy_credentials(proxy))
    with grpc.secure_channel(proxy.url, credentials) as channel:
        call = channel.unary_unary(f"/inference.GRPCInferenceService/{method}")
        with pytest.raises(grpc.RpcError) as caught:
            call(b"", timeout=WAIT_SECONDS)
    assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED


def proxy_credentials(proxy):
    return proxy.tls.root_certificates, proxy.tls.key, proxy.tls.certificate


def test_headers_that_open_or_break_something_are_dropped(proxy):
    headers = {"triton-grpc-protocol-video-llava-admin": "key", "triton_grpc_error": "true", "x-mine": "stays"}
    with proxy.client(headers=headers) as client:
        client.ask("Hello?")
    (request,) = (request for replica in proxy.replicas for request in replica.grpc.requests)
    assert headers.keys() & request.metadata.keys() == {"x-mine"}


def test_who_shows_no_certificate_is_refused(proxy, authority):
    with proxy.client(tls=Tls(root_certificates=authority.certificate)) as client, pytest.raises(VideoLlavaError):
        client.ask("Hello?", timeout_seconds=10)
    assert sum(proxy.counts()) == 0


def test_a_certificate_of_another_authority_is_refused(proxy, authority):
    stranger = Authority("another").sign("client")
    tls = Tls(root_certificates=authority.certificate, certificate=stranger.certificate, key=stranger.key)
    with proxy.client(tls=tls) as client, pytest.raises(VideoLlavaError):
        client.ask("Hello?", timeout_seconds=10)
    assert sum(proxy.counts()) == 0


def test_a_replica_that_died_costs_no_request(proxy):
    with proxy.client() as client:
        client.ask("What happens?", video=FRAMES)
        (owner,) = (replica for replica in proxy.replicas if replica.num_requests)
        owner.grpc.stop()
        try:
            # Its health is not asked about yet, or says that it is well: connections fail, and another one is tried.
            assert client.ask("What happens?", video=FRAMES).text == "An answer."
        finally:
            owner.grpc.start()
    assert sum(proxy.counts()) == 2


def test_the_log_names_replica_and_media(proxy):
    with proxy.client() as client:
        client.ask("What happens?", video=FRAMES)

    def lines():
        return [json.loads(line) for line in proxy.log.read_text().splitlines() if line.startswith("{")]

    wait_until(lambda: any(line["path"].endswith("ModelStreamInfer") and line["media"] for line in lines()))
    last = next(line for line in reversed(lines()) if line["media"])
    assert last["replica"].partition(":")[0] in REPLICAS
    assert last["status"] == "OK"


def test_streams_may_end_before_the_proxy_does():
    manifests = render("overlays/proxy")
    (text,) = (item["data"]["envoy.yaml"] for item in manifests.of("ConfigMap"))
    grpc_listener = yaml.safe_load(text)["static_resources"]["listeners"][0]
    options = grpc_listener["filter_chains"][0]["filters"][0]["typed_config"]
    connection = int(options["common_http_protocol_options"]["max_connection_duration"].removesuffix("s"))
    pod = manifests.get("Deployment", "video-llava-proxy")["spec"]["template"]["spec"]
    waits = pod["containers"][0]["lifecycle"]["preStop"]["sleep"]["seconds"]
    longest = 180  # the drain of base/deployment.yaml, which test_rules.py holds to its own sums
    assert f"--timeout {longest}" in json.dumps(manifests.server())
    assert waits >= connection + longest
    assert pod["terminationGracePeriodSeconds"] > waits
    assert int(options["stream_idle_timeout"].removesuffix("s")) > longest


def test_image_and_tests_are_of_one_version():
    version = subprocess.run([ENVOY, "--version"], capture_output=True, check=True, text=True, timeout=30).stdout
    (image,) = (
        container["image"]
        for name, pod in render("overlays/proxy").pods()
        for container in pod["spec"]["containers"]
        if container["name"] == "envoy"
    )
    assert f"/{image.rpartition('v')[2]}/" in version
