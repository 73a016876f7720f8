"""The command line and the environment of tritonserver."""

import os
from pathlib import Path
from typing import Any

import pytest
from video_llava_serve import OptionError
from video_llava_serve._command import (
    core_list,
    core_lists,
    server_command,
    server_environment,
    tracing_environment,
)
from video_llava_serve._options import ServerOptions
from video_llava_serve._wheel import TritonWheel


@pytest.fixture(scope="module")
def wheel() -> TritonWheel:
    return TritonWheel.find()


@pytest.mark.parametrize(("cores", "text"), [({0}, "0"), ({0, 1}, "0-1"), ({5, 0, 1, 2}, "0-2,5"), ({1, 3}, "1,3")])
def test_core_list(cores: set[int], text: str) -> None:
    assert core_list(cores) == text


@pytest.mark.parametrize(
    ("cores", "num_ranks", "text"),
    [({0, 1}, 1, "0-1"), ({0, 1}, 2, "0|1"), ({2, 3, 4, 8}, 2, "2-3|4,8"), ({0, 1, 2}, 2, "0-1|2"), ({5}, 2, "5|5")],
)
def test_each_rank_gets_its_share_of_the_cores(cores: set[int], num_ranks: int, text: str) -> None:
    assert core_lists(cores, num_ranks=num_ranks) == text


def test_defaults_for_the_engine_yield_to_the_user(wheel: TritonWheel, tmp_path: Path) -> None:
    environment = server_environment(wheel, {}, {"VLLM_CPU_OMP_THREADS_BIND": "nobind", "PATH": str(tmp_path)})
    assert environment["VLLM_CPU_OMP_THREADS_BIND"] == "nobind"
    assert environment["GOMP_SPINCOUNT"] == "20000"
    assert environment["VLLM_CPU_KVCACHE_SPACE"] == "4"
    assert environment["TORCH_COMPILE_DISABLE"] == "1"  # no compiler there
    assert environment["HF_HUB_OFFLINE"] == "1"


def test_engine_arguments_that_size_the_cache_are_not_overruled(wheel: TritonWheel) -> None:
    assert "VLLM_CPU_KVCACHE_SPACE" not in server_environment(wheel, {"kv_cache_memory_bytes": 1048576}, {})


def test_the_cores_are_shared_among_the_ranks_of_the_engine(wheel: TritonWheel) -> None:
    assert server_environment(wheel, {"tensor_parallel_size": 2}, {})["VLLM_CPU_OMP_THREADS_BIND"].count("|") == 1


def test_the_users_own_paths_stay(wheel: TritonWheel) -> None:
    environment = server_environment(wheel, {}, {"PATH": "/mine", "LD_LIBRARY_PATH": "/libraries"})
    assert environment["PATH"].endswith(f"{os.pathsep}/mine")
    assert environment["LD_LIBRARY_PATH"].startswith(str(wheel.libraries))
    assert environment["LD_LIBRARY_PATH"].endswith(f"{os.pathsep}/libraries")


def command(wheel: TritonWheel, repository: Path, **options: Any) -> list[str]:
    settings = ServerOptions(repository=repository, **options)
    return server_command(wheel, settings, repository=repository, backends=repository, shared_memory_prefix="p-")


def test_further_flags_come_last_and_the_cache_can_be_left_out(wheel: TritonWheel, tmp_path: Path) -> None:
    flags = command(wheel, tmp_path, triton_flags=("--log-verbose=1",))
    assert flags[-1] == "--log-verbose=1"
    assert any(flag.startswith("--cache-config=local,size=") for flag in flags)
    assert "--cache-config" not in " ".join(command(wheel, tmp_path, cache_megabytes=0))


def test_what_clients_have_no_use_for_takes_a_key_that_nobody_has(wheel: TritonWheel, tmp_path: Path) -> None:
    flags = [flag for flag in command(wheel, tmp_path) if "restricted" in flag]
    assert len(flags) == 2
    for flag in flags:
        assert ":video-llava-admin=" in flag
        groups = flag.split("=")[1].split(":")[0].split(",")
        assert groups == ["model-repository", "shared-memory", "logging", "trace"]
    assert flags != [flag for flag in command(wheel, tmp_path) if "restricted" in flag]
    assert "--model-control-mode=none" in command(wheel, tmp_path)


def test_a_server_with_tls_answers_nothing_but_health_in_the_clear(wheel: TritonWheel, tmp_path: Path) -> None:
    pem = tmp_path / "a.pem"
    pem.write_text("", encoding="utf-8")
    flags = command(wheel, tmp_path, tls_certificate=pem, tls_key=pem, tls_client_ca=pem, admin_key="k" * 16)
    assert {f"--grpc-server-cert={pem}", "--grpc-use-ssl=true", "--grpc-use-ssl-mutual=true"} <= set(flags)
    on_http = [flag for flag in flags if flag.startswith("--http-restricted-api=")]
    assert all(flag.endswith(f":video-llava-admin={'k' * 16}") for flag in on_http)
    closed = ",".join(flag.split("=")[1].split(":")[0] for flag in on_http).split(",")
    all_groups = "metadata inference model-config statistics model-repository shared-memory logging trace"
    assert sorted(closed) == sorted(all_groups.split())


def test_only_the_callers_own_traces_are_exported(wheel: TritonWheel, tmp_path: Path) -> None:
    flags = command(wheel, tmp_path, otlp_endpoint="http://localhost:4318/")
    assert "--trace-config=opentelemetry,url=http://localhost:4318/v1/traces" in flags
    assert "--trace-config=rate=2147483647" in flags
    environment = tracing_environment("http://localhost:4318")
    assert environment["OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"] == "http://localhost:4318/v1/traces"
    assert environment["OTEL_TRACES_SAMPLER"] == "parentbased_always_off"
    assert tracing_environment("") == {}
    assert "--trace-config=level=OFF" in command(wheel, tmp_path)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tls_certificate": Path("c.pem")}, "TLS takes both, tls_certificate and tls_key"),
        ({"tls_client_ca": Path("ca.pem")}, "tls_client_ca asks clients for certificates, so it needs"),
        ({"tls_certificate": Path("c.pem"), "tls_key": Path("k.pem")}, r"tls_certificate is c\.pem, which is no file"),
        ({"admin_key": "a,b"}, "admin_key must be 16 or more letters"),
        ({"otlp_endpoint": "localhost:4317"}, "otlp_endpoint is 'localhost:4317', expected an address as http"),
    ],
)
def test_options_that_cannot_work(options: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(OptionError, match=message):
        ServerOptions(repository=tmp_path, **options)


def test_the_key_is_not_shown_by_accident(tmp_path: Path) -> None:
    assert "secret" not in repr(ServerOptions(repository=tmp_path, admin_key="secret-" * 3))
