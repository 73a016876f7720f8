"""A real Envoy with the configuration of the overlay `proxy`, and what it takes for replicas."""

from __future__ import annotations

import contextlib
import http.server
import json
import re
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from pathlib import Path

import yaml
from video_llava_client import Retry, VideoLlava
from video_llava_client.testing import FakeServer, Reply

from .kubernetes import render

ENVOY = Path(sys.executable).with_name("envoy")
REPLICAS = ("127.0.0.2", "127.0.0.3", "127.0.0.4")
WAIT_SECONDS = 60


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


def stop(process):
    process.terminate()
    try:
        process.wait(timeout=20)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
