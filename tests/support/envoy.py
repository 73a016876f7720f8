"""A real Envoy with the configuration of the overlay `proxy`."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml
from video_llava_client import Tls, VideoLlava
from video_llava_serve._ports import choose_ports

from .certificates import Authority
from .dns import NameServer
from .kubernetes import render
from .waiting import wait_until

ENVOY = Path(sys.executable).with_name("envoy")
SERVICE = "video-llava-headless"


def free_ports(*names: str) -> dict[str, int]:
    """Ports that are free on every address of this machine."""
    return dict(zip(names, choose_ports([("0.0.0.0", 0)] * len(names)), strict=True))


class Proxy:
    """A running Envoy, and who may talk to it.

    Attributes:
        pods: The name server that tells it where the replicas are.
        tls: What a client shows it.
        log: The file that it writes its log to.
    """

    def __init__(
        self, process: subprocess.Popen[bytes], ports: dict[str, int], *, pods: NameServer, tls: Tls, log: Path
    ) -> None:
        self._process = process
        self.url = f"127.0.0.1:{ports['proxy']}"
        self.health = f"http://127.0.0.1:{ports['health']}"
        self.pods = pods
        self.tls = tls
        self.log = log
        self._admin = f"http://127.0.0.1:{ports['admin']}"

    def client(self, **options: Any) -> VideoLlava:
        return VideoLlava(self.url, **{"tls": self.tls, **options})

    def wait_for_healthy(self, *addresses: str) -> None:
        """Until it sends requests to these replicas and to no other, for both ways."""
        wait_until(lambda: self._healthy() == [sorted(addresses)] * 2)

    def _healthy(self) -> list[list[str]]:
        assert self._process.poll() is None, self.log.read_text()
        with urllib.request.urlopen(f"{self._admin}/clusters?format=json", timeout=5) as response:
            clusters = json.load(response)["cluster_statuses"]
        return [sorted(map(_address, filter(_is_healthy, cluster.get("host_statuses", [])))) for cluster in clusters]


def _address(host: dict) -> str:
    return host["address"]["socket_address"]["address"]


def _is_healthy(host: dict) -> bool:
    return "failed_active_health_check" not in host["health_status"]


@contextmanager
def running_proxy(
    folder: Path, authority: Authority, *addresses: str, ports: dict[str, int], overlay: str = "overlays/proxy"
) -> Iterator[Proxy]:
    """A proxy before replicas at `addresses`, on the ports "grpc" and "http" of each, that is ready when they are."""
    client = authority.sign("client")
    for secret, shown in (("tls", authority.sign("127.0.0.1")), ("client", client)):
        (folder / secret).mkdir()
        (folder / secret / "tls.crt").write_bytes(shown.certificate)
        (folder / secret / "tls.key").write_bytes(shown.key)
        (folder / secret / "ca.crt").write_bytes(authority.certificate)
    tls = Tls(root_certificates=authority.certificate, certificate=client.certificate, key=client.key)
    ports = ports | free_ports("proxy", "health", "admin")
    log = folder / "log"
    with NameServer(SERVICE, addresses) as pods, log.open("wb") as file:
        path = _configuration(overlay, folder, ports, pods)
        command = [ENVOY, "--config-path", path, "--concurrency", "1", "--disable-hot-restart"]
        process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT)
        try:
            proxy = Proxy(process, ports, pods=pods, tls=tls, log=log)
            proxy.wait_for_healthy(*addresses)
            yield proxy
        finally:
            _stop(process)


def _configuration(overlay: str, folder: Path, ports: dict[str, int], pods: NameServer) -> Path:
    """The rendered one; only files, ports and the name server are those of this machine."""
    (text,) = (item["data"]["envoy.yaml"] for item in render(overlay).of("ConfigMap"))
    text = re.sub(r"(?<= )/(tls|client)(?=[/ ])", rf"{folder}/\1", text)
    envoy = json.loads(json.dumps(yaml.safe_load(text)))  # no part in two places
    for listener, port in zip(envoy["static_resources"]["listeners"], (ports["proxy"], ports["health"]), strict=True):
        listener["address"]["socket_address"] = {"address": "127.0.0.1", "port_value": port}
    envoy["admin"]["address"]["socket_address"]["port_value"] = ports["admin"]
    envoy["typed_dns_resolver_config"] = {
        "name": "envoy.network.dns_resolver.cares",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.network.dns_resolver.cares.v3.CaresDnsResolverConfig",
            "resolvers": [{"socket_address": {"address": "127.0.0.1", "port_value": pods.port}}],
            "dns_resolver_options": {"no_default_search_domain": True},
        },
    }
    for cluster in envoy["static_resources"]["clusters"]:
        ((pod,),) = (group["lb_endpoints"] for group in cluster["load_assignment"]["endpoints"])
        assert pod["endpoint"]["address"]["socket_address"] == {"address": pods.name, "port_value": 8001}
        assert pod["endpoint"]["health_check_config"] == {"port_value": 8000}
        pod["endpoint"]["address"]["socket_address"]["port_value"] = ports["grpc"]
        pod["endpoint"]["health_check_config"]["port_value"] = ports["http"]
    path = folder / "envoy.yaml"
    path.write_text(yaml.safe_dump(envoy), encoding="utf-8")
    return path


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(timeout=20)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
