"""Every flag that a tritonserver gets here is one of the GPU image's Triton, 26.07, with a value that it takes.

The table is read from src/command_line_parser.cc of the branch r26.07 of triton-inference-server/server; 26.05 to 26.08
have the same file. What `backend-config` takes is from src/python_be.cc of python_backend, r26.06.
"""

import re
from pathlib import Path

import pytest
from support.kubernetes import KSERVE, OVERLAYS, render
from video_llava_serve._command import server_command
from video_llava_serve._options import ServerOptions
from video_llava_serve._wheel import TritonWheel
from video_llava_server.repository import common_flags

TEXT, NUMBER, BOOL = r".+", r"\d+", r"(?i:true|on|1|false|off|0)"
_GROUP = "(?:health|metadata|inference|shared-memory|model-config|model-repository|statistics|trace|logging)"
RESTRICTED = rf"{_GROUP}(?:,{_GROUP})*:[^=]+=.+"
KNOWN = {
    "allow-client-shm": BOOL,
    "allow-gpu-metrics": BOOL,
    "allow-metrics": BOOL,
    "allow-sagemaker": BOOL,
    "allow-vertex-ai": BOOL,
    "backend-config": r"python,(?:shm-default-byte-size=\d+|shm-growth-byte-size=\d+|shm-region-prefix-name=.+)",
    "backend-directory": TEXT,
    "cache-config": r"local,size=\d+",
    "cache-directory": TEXT,
    "cuda-memory-pool-byte-size": r"\d+:\d+",
    "exit-on-error": BOOL,
    "exit-timeout-secs": NUMBER,
    "grpc-address": TEXT,
    "grpc-header-forward-pattern": TEXT,
    "grpc-max-connection-age": NUMBER,
    "grpc-max-connection-age-grace": NUMBER,
    "grpc-port": NUMBER,
    "grpc-restricted-protocol": RESTRICTED,
    "grpc-root-cert": TEXT,
    "grpc-server-cert": TEXT,
    "grpc-server-key": TEXT,
    "grpc-use-ssl": BOOL,
    "grpc-use-ssl-mutual": BOOL,
    "http-address": TEXT,
    "http-header-forward-pattern": TEXT,
    "http-max-input-size": NUMBER,
    "http-port": NUMBER,
    "http-restricted-api": RESTRICTED,
    "metrics-address": TEXT,
    "metrics-port": NUMBER,
    "model-config-name": r"\S+",
    "model-control-mode": "none|poll|explicit",
    "model-repository": TEXT,
    "pinned-memory-pool-byte-size": NUMBER,
    "strict-readiness": BOOL,
    "trace-config": r"mode=(?:triton|opentelemetry)|level=(?:OFF|TIMESTAMPS|TENSORS)|rate=\d+|opentelemetry,\w+=.+",
}


def of_the_containers() -> dict[str, list[str]]:
    """Flags of each overlay whose pods run video-llava-tritonserver, and of the KServe runtime."""
    made = {}
    for folder in (*OVERLAYS, KSERVE):
        for container, _ in render(folder).containers():
            arguments = container.get("args", [])
            if "video-llava-tritonserver" in arguments:
                made[f"{folder}, {container['name']}"] = arguments[arguments.index("--") + 1 :]
    return made


def of_the_launcher(folder: Path) -> list[str]:
    """Those of video-llava-serve with all that changes them."""
    file = folder / "pem"
    file.touch()
    options = ServerOptions(
        model=folder,
        tls_certificate=file,
        tls_key=file,
        tls_client_ca=file,
        otlp_endpoint="http://localhost:4318",
    )
    wheel = TritonWheel.find()
    return server_command(wheel, options, repository=folder, backends=folder, shared_memory_prefix="p-")[1:]


@pytest.fixture
def used(tmp_path):
    """Every list of flags that this project gives a tritonserver, by where."""
    common = common_flags(tmp_path, admin_key="key", model_config_name="gpu")
    return {"common": common, "video-llava-serve": of_the_launcher(tmp_path), **of_the_containers()}


def test_triton_26_07_knows_every_flag_and_takes_its_value(used):
    assert len(used) > 8
    for where, flags in used.items():
        for flag in flags:
            name, _, value = flag.removeprefix("--").partition("=")
            assert name in KNOWN, f"{where}: {flag}"
            assert re.fullmatch(KNOWN[name], value), f"{where}: {flag}"


def test_the_table_lists_no_flag_that_is_not_used(used):
    assert {flag.removeprefix("--").partition("=")[0] for flags in used.values() for flag in flags} == set(KNOWN)
