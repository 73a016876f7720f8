"""The flags of the overlay `secure` on a real tritonserver without a model, which starts in a second."""

import contextlib
import http.client
import os
import subprocess
import time
from importlib import import_module
from typing import Any

import grpc
import pytest
from support.certificates import Authority
from support.kubernetes import render
from video_llava_serve._command import server_environment
from video_llava_serve._ports import choose_ports
from video_llava_serve._wheel import TritonWheel
from video_llava_server.repository import common_flags

messages: Any = import_module("tritonclient.grpc.service_pb2")  # generated, without types
services: Any = import_module("tritonclient.grpc.service_pb2_grpc")

WAIT_SECONDS = 60
KEY = "the operator's key"
# Flags of the container's Triton (26.07) that the wheel's (24.10) does not have.
NEWER = ("--allow-client-shm", "--http-max-input-size")


def arguments(overlay):
    """What the overlay adds to video-llava-tritonserver's own flags."""
    arguments = render(f"overlays/{overlay}").triton()["args"]
    return arguments[arguments.index("--") + 1 :]


@pytest.fixture(scope="module")
def wheel():
    return TritonWheel.find()


@pytest.fixture(scope="module")
def authority():
    return Authority("the cluster's")


@pytest.fixture(scope="module")
def triton(wheel, authority, tmp_path_factory):
    folder = tmp_path_factory.mktemp("secure")
    server = authority.sign("127.0.0.1")
    for name, content in (("tls.crt", server.certificate), ("tls.key", server.key), ("ca.crt", authority.certificate)):
        (folder / name).write_bytes(content)
    (folder / "models").mkdir()
    flags = [
        flag.replace("=/tls/", f"={folder}/").replace("$(VIDEO_LLAVA_ADMIN_KEY)", KEY)
        for flag in (*common_flags(folder / "models", admin_key=KEY), *arguments("secure"))
        if not flag.startswith(NEWER)
    ]
    flags += [f"--cache-directory={wheel.caches}"]
    http_port, grpc_port, metrics_port = choose_ports([("127.0.0.1", 0)] * 3)
    for kind, port in (("http", http_port), ("grpc", grpc_port), ("metrics", metrics_port)):
        flags += [f"--{kind}-address=127.0.0.1", f"--{kind}-port={port}"]
    command = [wheel.server, *flags]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            command, stdout=log, stderr=subprocess.STDOUT, env=server_environment(wheel, {}, os.environ)
        )
    try:
        wait_ready(process, http_port, folder / "log")
        yield http_port, grpc_port
    finally:
        process.terminate()
        process.wait(timeout=WAIT_SECONDS)


def wait_ready(process, port, log):
    ends = time.monotonic() + WAIT_SECONDS
    while time.monotonic() < ends:
        assert process.poll() is None, log.read_text()
        with contextlib.suppress(OSError):
            if get(port, "/v2/health/ready") == 200:
                return
        time.sleep(0.1)
    raise AssertionError(f"not within {WAIT_SECONDS} s: {log.read_text()}")


def get(port, path, **headers):
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port, timeout=10)) as connection:
        connection.request("GET", path, headers=headers)
        return connection.getresponse().status


@contextlib.contextmanager
def triton_channel(port, authority, client=None):
    client = client or authority.sign("client")
    credentials = grpc.ssl_channel_credentials(authority.certificate, client.key, client.certificate)
    with grpc.secure_channel(f"127.0.0.1:{port}", credentials) as channel:
        yield services.GRPCInferenceServiceStub(channel)


def test_probes_need_no_key(triton):
    http_port, _ = triton
    assert get(http_port, "/v2/health/ready") == get(http_port, "/v2/health/live") == 200
    assert get(http_port, "/v2/models/vicuna/ready") == 400  # answered: no such model here


@pytest.mark.parametrize(
    "path", ["/v2", "/v2/models/vicuna/config", "/v2/systemsharedmemory/status", "/v2/trace/setting"]
)
def test_http_is_closed_without_the_key(triton, path):
    http_port, _ = triton
    assert get(http_port, path) == 403
    assert get(http_port, path, **{"video-llava-admin": "another"}) == 403
    assert get(http_port, path, **{"video-llava-admin": KEY}) != 403


CLOSED = [
    ("RepositoryIndex", messages.RepositoryIndexRequest()),
    ("SystemSharedMemoryStatus", messages.SystemSharedMemoryStatusRequest()),
    ("TraceSetting", messages.TraceSettingRequest()),
    ("LogSettings", messages.LogSettingsRequest()),
]


@pytest.mark.parametrize(("method", "request_"), CLOSED, ids=[name for name, _ in CLOSED])
def test_operators_methods_need_the_key(triton, authority, method, request_):
    _, grpc_port = triton
    with triton_channel(grpc_port, authority) as stub:
        with pytest.raises(grpc.RpcError, match="This protocol is restricted"):
            getattr(stub, method)(request_, timeout=10)
        getattr(stub, method)(request_, timeout=10, metadata=[("triton-grpc-protocol-video-llava-admin", KEY)])


def test_clients_methods_need_no_key(triton, authority):
    _, grpc_port = triton
    with triton_channel(grpc_port, authority) as stub:
        assert stub.ServerReady(messages.ServerReadyRequest(), timeout=10).ready
        assert stub.ServerMetadata(messages.ServerMetadataRequest(), timeout=10).name == "triton"


def test_other_certificates_and_none_are_refused(triton, authority):
    _, grpc_port = triton
    stranger = Authority("another").sign("client")
    with triton_channel(grpc_port, authority, stranger) as stub, pytest.raises(grpc.RpcError) as caught:
        stub.ServerLive(messages.ServerLiveRequest(), timeout=10)
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    with grpc.insecure_channel(f"127.0.0.1:{grpc_port}") as channel, pytest.raises(grpc.RpcError):
        services.GRPCInferenceServiceStub(channel).ServerLive(messages.ServerLiveRequest(), timeout=10)


@pytest.mark.parametrize("overlay", ["gpu", "gpu-multi", "secure", "autoscale", "proxy"])
def test_every_flag_is_one_of_tritonservers(wheel, overlay):
    environment = server_environment(wheel, {}, os.environ)
    done = subprocess.run([wheel.server, "--help"], capture_output=True, check=False, env=environment, timeout=60)
    known = (done.stdout + done.stderr).decode()
    for flag in arguments(overlay):
        name = flag.partition("=")[0]
        assert name in NEWER or f"{name} <" in known or f"{name}\n" in known, f"tritonserver has no {name}"
