"""The command line and the environment of tritonserver."""

import os
from pathlib import Path

import pytest
from video_llava_serve._command import core_list, core_lists, server_command, server_environment
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
    environment = server_environment(wheel, tmp_path, {"VLLM_CPU_OMP_THREADS_BIND": "nobind", "PATH": str(tmp_path)})
    assert environment["VLLM_CPU_OMP_THREADS_BIND"] == "nobind"
    assert environment["VLLM_CPU_KVCACHE_SPACE"] == "4"
    assert environment["TORCH_COMPILE_DISABLE"] == "1"  # no compiler there
    assert environment["HF_HUB_OFFLINE"] == "1"


def test_engine_arguments_that_size_the_cache_are_not_overruled(wheel: TritonWheel, tmp_path: Path) -> None:
    version = tmp_path / "vicuna" / "1"
    version.mkdir(parents=True)
    (version / "model.json").write_text('{"kv_cache_memory_bytes": 1048576}', encoding="utf-8")
    assert "VLLM_CPU_KVCACHE_SPACE" not in server_environment(wheel, tmp_path, {})


def test_the_cores_are_shared_among_the_ranks_of_the_engine(wheel: TritonWheel, tmp_path: Path) -> None:
    version = tmp_path / "vicuna" / "1"
    version.mkdir(parents=True)
    (version / "model.json").write_text('{"tensor_parallel_size": 2}', encoding="utf-8")
    assert server_environment(wheel, tmp_path, {})["VLLM_CPU_OMP_THREADS_BIND"].count("|") == 1


def test_the_users_own_paths_stay(wheel: TritonWheel, tmp_path: Path) -> None:
    environment = server_environment(wheel, tmp_path, {"PATH": "/mine", "LD_LIBRARY_PATH": "/libraries"})
    assert environment["PATH"].endswith(f"{os.pathsep}/mine")
    assert environment["LD_LIBRARY_PATH"].startswith(str(wheel.libraries))
    assert environment["LD_LIBRARY_PATH"].endswith(f"{os.pathsep}/libraries")


def test_further_flags_come_last(wheel: TritonWheel, tmp_path: Path) -> None:
    options = ServerOptions(repository=tmp_path, triton_flags=("--log-verbose=1",))
    command = server_command(wheel, options, backends=tmp_path, shared_memory_prefix="p-")
    assert command[-1] == "--log-verbose=1"
    assert "--cache-config=local,size=536870912" in command


def test_no_cache(wheel: TritonWheel, tmp_path: Path) -> None:
    options = ServerOptions(repository=tmp_path, cache_megabytes=0)
    command = server_command(wheel, options, backends=tmp_path, shared_memory_prefix="p-")
    assert not any(flag.startswith("--cache-config") for flag in command)
