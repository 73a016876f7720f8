"""A real Envoy with the overlay's own configuration, between our client and fake servers on the loopback network."""

import contextlib
import json
import subprocess
import urllib.error
import urllib.request
from collections import Counter

import grpc
import numpy as np
import pytest
import yaml
from support.certificates import Authority
from support.envoy import ENVOY, REPLICAS, WAIT_SECONDS, Proxy, Replica, configuration, free_ports, stop, wait_until
from support.kubernetes import render
from video_llava_client import Tls, Unavailable, VideoLlavaError

FRAMES = np.zeros((8, 56, 56, 3), np.uint8)


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
