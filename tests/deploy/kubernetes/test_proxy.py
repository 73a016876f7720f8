"""A real Envoy with the overlay's configuration, between our client and fake servers on loopback addresses."""

import contextlib
import http.server
import json
import os
import subprocess
import threading
import time
import urllib.error
import urllib.request

import grpc
import numpy as np
import pytest
import yaml
from support.certificates import Authority
from support.envoy import ENVOY, free_ports, running_proxy
from support.kubernetes import FOLDER, render
from support.waiting import WAIT_SECONDS, wait_until
from video_llava_client import Retry, Tls, Unavailable, VideoLlavaError
from video_llava_client.testing import FakeServer, Reply

ADDRESSES = ("127.0.0.2", "127.0.0.3", "127.0.0.4")
FRAMES = np.zeros((8, 56, 56, 3), np.uint8)


class Replica:
    """What Envoy sees of a pod: gRPC on one port, Triton's readiness over HTTP on another."""

    def __init__(self, address, ports, credentials=None):
        self.address = address
        self.is_ready = True
        self.grpc = FakeServer(Reply("An answer."), address=address, port=ports["grpc"], credentials=credentials)
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


class Cluster:
    """The proxy and the replicas behind it."""

    def __init__(self, proxy, replicas):
        self.proxy = proxy
        self.replicas = replicas

    def client(self, **options):
        return self.proxy.client(**{"retry": Retry(num_attempts=1), **options})

    def counts(self):
        return [replica.num_requests for replica in self.replicas]

    def wait_for_health(self):
        """Until the proxy knows which replicas are ready and in DNS."""
        ready = {replica.address for replica in self.replicas if replica.is_ready}
        self.proxy.wait_for_healthy(*ready.intersection(self.proxy.pods.addresses))


@pytest.fixture(scope="module")
def authority():
    return Authority("clients of this cluster")


@pytest.fixture(scope="module")
def running(tmp_path_factory, authority):
    ports = free_ports("grpc", "http")
    with contextlib.ExitStack() as stack:
        replicas = [stack.enter_context(Replica(address, ports)) for address in ADDRESSES]
        folder = tmp_path_factory.mktemp("proxy")
        proxy = stack.enter_context(running_proxy(folder, authority, *ADDRESSES, ports=ports))
        yield Cluster(proxy, replicas)


@pytest.fixture
def cluster(running):
    running.proxy.pods.addresses = ADDRESSES
    for replica in running.replicas:
        replica.is_ready = True
        replica.grpc.requests.clear()
    running.wait_for_health()
    return running


def test_a_repeated_video_goes_to_one_replica_from_every_client(cluster):
    for _ in range(3):
        with cluster.client() as client:
            for _ in range(4):
                assert client.ask("What happens?", video=FRAMES).text == "An answer."
    assert sorted(cluster.counts()) == [0, 0, 12]


@pytest.mark.parametrize("has_video", [True, False])
def test_other_requests_are_spread_over_the_replicas(cluster, has_video):
    with cluster.client() as client:
        for shade in range(40):
            client.ask("What happens?", video=FRAMES + np.uint8(shade) if has_video else None)
    assert sum(cluster.counts()) == 40
    assert min(cluster.counts()) >= 1


def test_a_replica_that_is_not_ready_gets_nothing(cluster):
    with cluster.client() as client:
        client.ask("What happens?", video=FRAMES)
        (owner,) = (replica for replica in cluster.replicas if replica.num_requests)
        owner.is_ready = False
        cluster.wait_for_health()
        for _ in range(6):
            client.ask("What happens?", video=FRAMES)
        assert owner.num_requests == 1
        assert sorted(cluster.counts()) == [0, 1, 6]


def test_a_pod_that_left_dns_gets_nothing_new(cluster):
    with cluster.client() as client:
        client.ask("What happens?", video=FRAMES)
        (owner,) = (replica for replica in cluster.replicas if replica.num_requests)
        # Still ready, but not in DNS any more.
        cluster.proxy.pods.addresses = tuple(address for address in ADDRESSES if address != owner.address)
        cluster.wait_for_health()
        for _ in range(6):
            client.ask("What happens?", video=FRAMES)
            client.ask("Hello?")
    assert owner.num_requests == 1


def test_probes_need_no_certificate_and_fail_without_a_replica(cluster):
    assert [probe(cluster, path) for path in ("ready", "live")] == [200, 200]
    for replica in cluster.replicas:
        replica.is_ready = False
    cluster.wait_for_health()
    assert [probe(cluster, path) for path in ("ready", "live")] == [503, 200]
    with cluster.client() as client, pytest.raises(Unavailable):
        client.ask("Hello?")
    assert sum(cluster.counts()) == 0


def probe(cluster, path):
    try:
        with urllib.request.urlopen(f"{cluster.proxy.health}/{path}", timeout=5) as response:
            return response.status
    except urllib.error.HTTPError as exc:
        return exc.code


@pytest.mark.parametrize(
    "method", ["RepositoryIndex", "RepositoryModelLoad", "SystemSharedMemoryRegister", "TraceSetting"]
)
def test_operators_methods_are_closed(cluster, method):
    tls = cluster.proxy.tls
    credentials = grpc.ssl_channel_credentials(tls.root_certificates, tls.key, tls.certificate)
    with grpc.secure_channel(cluster.proxy.url, credentials) as channel:
        call = channel.unary_unary(f"/inference.GRPCInferenceService/{method}")
        with pytest.raises(grpc.RpcError) as caught:
            call(b"", timeout=WAIT_SECONDS)
    assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED


def test_the_operators_headers_are_dropped(cluster):
    headers = {"triton-grpc-protocol-video-llava-admin": "key", "triton_grpc_error": "true", "x-mine": "stays"}
    with cluster.client(headers=headers) as client:
        client.ask("Hello?")
    (request,) = (request for replica in cluster.replicas for request in replica.grpc.requests)
    assert headers.keys() & request.metadata.keys() == {"x-mine"}


def test_the_caller_is_the_certificates_subject_whatever_it_says(cluster):
    with cluster.client(headers={"x-video-llava-caller": "another"}) as client:
        client.ask("Hello?")
    (request,) = (request for replica in cluster.replicas for request in replica.grpc.requests)
    assert request.metadata["x-video-llava-caller"] == "CN=client"


@pytest.mark.parametrize("shows_certificate", [True, False])
def test_other_certificates_and_none_are_refused(cluster, authority, shows_certificate):
    tls = Tls(root_certificates=authority.certificate)
    if shows_certificate:
        other = Authority("another").sign("client")
        tls = Tls(root_certificates=authority.certificate, certificate=other.certificate, key=other.key)
    with cluster.client(tls=tls) as client, pytest.raises(VideoLlavaError):
        client.ask("Hello?", timeout_seconds=10)
    assert sum(cluster.counts()) == 0


def test_a_replica_that_died_costs_no_request(cluster):
    with cluster.client() as client:
        client.ask("What happens?", video=FRAMES)
        (owner,) = (replica for replica in cluster.replicas if replica.num_requests)
        owner.grpc.stop()
        try:
            # Before health checks notice: the connection fails, and Envoy tries another replica.
            assert client.ask("What happens?", video=FRAMES).text == "An answer."
        finally:
            owner.grpc.start()
    assert sum(cluster.counts()) == 2


def test_the_log_names_replica_and_media(cluster):
    with cluster.client() as client:
        client.ask("What happens?", video=FRAMES)

    def lines():
        return [json.loads(line) for line in cluster.proxy.log.read_text().splitlines() if line.startswith("{")]

    wait_until(lambda: any(line["path"].endswith("ModelStreamInfer") and line["media"] for line in lines()))
    last = next(line for line in reversed(lines()) if line["media"])
    assert last["replica"].partition(":")[0] in ADDRESSES
    assert last["status"] == "OK"


def envoy_of(manifests):
    (text,) = (item["data"]["envoy.yaml"] for item in manifests.of("ConfigMap"))
    return yaml.safe_load(text)["static_resources"]


def seconds(text):
    return int(text.removesuffix("s"))


def test_the_proxy_knows_that_a_pod_stops_before_the_pod_refuses():
    manifests = render("overlays/proxy")
    command = manifests.triton()["lifecycle"]["preStop"]["exec"]["command"]
    announced = int(command[command.index("--announce") + 1])
    for cluster in envoy_of(manifests)["clusters"]:
        (check,) = cluster["health_checks"]
        assert announced > check["unhealthy_threshold"] * seconds(check["interval"]) + seconds(check["timeout"])
        # A second in the cluster's DNS, and Envoy's own interval, five seconds by default.
        assert announced > 1 + seconds(cluster.get("dns_refresh_rate", "5s"))


def test_streams_end_before_the_proxy_does():
    manifests = render("overlays/proxy")
    grpc_listener = envoy_of(manifests)["listeners"][0]
    options = grpc_listener["filter_chains"][0]["filters"][0]["typed_config"]
    connection = seconds(options["common_http_protocol_options"]["max_connection_duration"])
    pod = manifests.get("Deployment", "video-llava-proxy")["spec"]["template"]["spec"]
    waits = pod["containers"][0]["lifecycle"]["preStop"]["sleep"]["seconds"]
    longest = int(manifests.triton()["lifecycle"]["preStop"]["exec"]["command"][-1])  # the drain's timeout
    assert waits >= connection + longest
    assert pod["terminationGracePeriodSeconds"] > waits
    assert seconds(options["stream_idle_timeout"]) > longest


def test_the_image_is_the_version_tested_here():
    version = subprocess.run([ENVOY, "--version"], capture_output=True, check=True, text=True, timeout=30).stdout
    (image,) = (each["image"] for each, _ in render("overlays/proxy").containers() if each["name"] == "envoy")
    assert f"/{image.rpartition('v')[2]}/" in version


@pytest.mark.parametrize(("name", "is_trusted"), [("video-llava-headless.video-llava", True), ("another", False)])
def test_secure_proxy_checks_the_replicas_certificate(tmp_path, authority, name, is_trusted):
    shown = authority.sign(name)
    credentials = grpc.ssl_server_credentials(
        [(shown.key, shown.certificate)], root_certificates=authority.certificate, require_client_auth=True
    )
    ports = free_ports("grpc", "http")
    with (
        Replica(ADDRESSES[0], ports, credentials) as replica,
        running_proxy(tmp_path, authority, ADDRESSES[0], ports=ports, overlay="overlays/secure-proxy") as proxy,
        proxy.client(retry=Retry(num_attempts=1)) as client,
    ):
        for video in (None, FRAMES):
            if is_trusted:
                assert client.ask("What happens?", video=video).text == "An answer."
            else:
                with pytest.raises(Unavailable, match="upstream connect error"):
                    client.ask("What happens?", video=video)
    assert replica.num_requests == (2 if is_trusted else 0)


def test_each_key_has_its_own_limit(tmp_path, authority):
    deploy = os.path.relpath(FOLDER, tmp_path)
    components = f"[{deploy}/components/proxy, {deploy}/components/rate-limit]"
    (tmp_path / "kustomization.yaml").write_text(f"resources: [{deploy}/overlays/gpu]\ncomponents: {components}")
    ports = free_ports("grpc", "http")
    with (
        Replica(ADDRESSES[0], ports) as replica,
        running_proxy(tmp_path, authority, ADDRESSES[0], ports=ports, overlay=str(tmp_path)) as proxy,
    ):

        def ask(key, *, num_attempts=1):
            with proxy.client(
                headers={"x-api-key": key} if key else {}, retry=Retry(num_attempts=num_attempts)
            ) as client:
                return client.ask("Hello?").num_attempts

        began = time.monotonic()
        with pytest.raises(Unavailable, match=r"(?s)local_rate_limited.*this key is over its limit"):
            for _ in range(200):
                ask("one")
        assert 60 <= replica.num_requests <= 61 + time.monotonic() - began
        assert [ask(key) for key in ("another", "batch-jobs", "")] == [1, 1, 1]
        # Refilled once a second, which the client's retries wait for.
        assert ask("one", num_attempts=6) >= 1
