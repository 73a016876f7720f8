"""The component gateway: its pods' probes and sums, and the way to Triton, by the proxy and by mutual TLS too."""

import os

import pytest
from click.testing import CliRunner
from support.kubernetes import FOLDER, flags, quantity, render
from video_llava_gateway.app import _HEALTH_SECONDS
from video_llava_gateway.cli import app
from video_llava_gateway.connections import _LAST_WORDS_SECONDS
from video_llava_gateway.settings import GatewaySettings

NAME = "video-llava-gateway"


@pytest.fixture
def manifests():
    return render("overlays/gateway")


def render_before(path, component):
    """What the gateway, and then a component, render to."""
    folder = os.path.relpath(FOLDER, path)
    components = f"[{folder}/components/gateway, {folder}/components/{component}]"
    text = f"resources: [{folder}/overlays/gpu]\ncomponents: {components}\n"
    (path / "kustomization.yaml").write_text(text, encoding="utf-8")
    return render(str(path))


def pod_of(manifests):
    return manifests.get("Deployment", NAME)["spec"]["template"]["spec"]


def container_of(manifests):
    (container,) = pod_of(manifests)["containers"]
    return container


def test_readiness_waits_for_tritons_answer_and_liveness_does_not_ask_it(manifests):
    container = container_of(manifests)
    assert container["readinessProbe"]["httpGet"] == {"path": "/health", "port": "http"}
    assert container["readinessProbe"]["timeoutSeconds"] > _HEALTH_SECONDS
    assert container["livenessProbe"]["httpGet"] == {"path": "/version", "port": "http"}


def test_running_requests_end_before_a_stop(manifests):
    container = container_of(manifests)
    drain = float(flags(container["args"])["drain-seconds"])
    total = container["lifecycle"]["preStop"]["sleep"]["seconds"] + drain + _LAST_WORDS_SECONDS
    assert pod_of(manifests)["terminationGracePeriodSeconds"] >= total
    # No answer of Triton's takes longer than its own drain.
    assert drain >= float(manifests.triton()["lifecycle"]["preStop"]["exec"]["command"][-1])


def test_the_memory_is_its_sum(manifests):
    settings, gibibyte = GatewaySettings(), 2**30
    tmp = quantity(pod_of(manifests)["volumes"][-1]["emptyDir"]["sizeLimit"])
    total = gibibyte // 4 + 4 * settings.max_buffered_bytes + settings.cache_bytes + 4 * gibibyte + tmp
    assert quantity(container_of(manifests)["resources"]["limits"]["memory"]) == total


def test_the_keys_are_a_folder_of_a_secret_which_may_change(manifests):
    (keys,) = (volume for volume in pod_of(manifests)["volumes"] if volume["name"] == "keys")
    assert keys["secret"] == {"secretName": "video-llava-gateway-keys"}
    (mount,) = (mount for mount in container_of(manifests)["volumeMounts"] if mount["name"] == "keys")
    assert "subPath" not in mount
    assert flags(container_of(manifests)["args"])["keys"] == f"{mount['mountPath']}/keys.toml"


@pytest.mark.parametrize(
    ("component", "url", "target"),
    [
        ("tracing", "dns:///video-llava-headless.video-llava:8001", "video-llava"),
        ("secure", "dns:///video-llava-headless.video-llava:8001", "video-llava"),
        ("proxy", "video-llava-proxy.video-llava:8443", "video-llava-proxy"),
        ("secure-proxy", "video-llava-proxy.video-llava:8443", "video-llava-proxy"),
    ],
)
def test_it_reaches_triton_or_the_proxy_and_dns_and_nothing_else(tmp_path, component, url, target):
    manifests = render_before(tmp_path, component)
    assert container_of(manifests)["env"] == [{"name": "VIDEO_LLAVA_URL", "value": url}]
    service, _, port = url.removeprefix("dns:///").partition(":")
    ports = manifests.get("Service", service.removesuffix(".video-llava"))["spec"]["ports"]
    assert int(port) in [each["port"] for each in ports if each["name"] == "grpc"]
    policy = manifests.get("NetworkPolicy", NAME)["spec"]
    assert policy["ingress"] == [{"ports": [{"port": "http"}]}]
    way, dns = policy["egress"]
    assert way["to"] == [{"podSelector": {"matchLabels": {"app.kubernetes.io/name": target}}}]
    assert way["ports"] == [{"port": "grpc"}]
    assert [each["port"] for each in dns["ports"]] == [53, 53]
    is_tls = component in ("secure", "proxy", "secure-proxy")
    secrets = {each["secret"]["secretName"] for each in pod_of(manifests)["volumes"] if "secret" in each}
    assert ("video-llava-gateway-client-tls" in secrets) == is_tls
    assert ("--tls-cert=/client/tls.crt" in container_of(manifests)["args"]) == is_tls


def test_the_command_knows_each_option(tmp_path):
    given = set(flags(container_of(render_before(tmp_path, "secure-proxy"))["args"]))
    shown = CliRunner().invoke(app, ["serve", "--help"]).output
    assert given
    assert [name for name in given if f"--{name}" not in shown] == []
