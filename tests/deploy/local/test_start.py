"""A start that cannot succeed says why, and what to do."""

import socket
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
from support.export import FREE_PORTS
from support.launcher import FREE_PORT_OPTIONS
from support.model_folder import write_model_folder
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from video_llava_serve import LocalServer, OptionError, PortError, RepositoryError, StartError
from video_llava_serve._errors import CrashError
from video_llava_serve._options import ServerOptions


def test_the_models_own_reason_is_the_message(
    launch: Callable[..., Any], failing_repository: Path, tmp_path: Path
) -> None:
    log = tmp_path / "server.log"
    launcher = launch("--repository", failing_repository, *FREE_PORT_OPTIONS, "--log-file", log)
    assert launcher.finish() == 1
    assert launcher.stderr == (
        "video-llava-serve: the model 'vicuna' does not load: RuntimeError: the weights are not there\n"
        f"Remove the cause and start again; the server's whole log is {log}\n"
    )
    assert "failed to load 'vicuna' version 1" in log.read_text(encoding="utf-8")


def test_a_log_on_standard_output_is_in_no_file(
    launch: Callable[..., Any],
    failing_repository: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    launcher = launch("--repository", failing_repository, *FREE_PORT_OPTIONS, "--log-file", "-")
    assert launcher.finish() == 1
    assert launcher.stderr.endswith("the server's whole log is on standard output\n")
    assert "failed to load 'vicuna' version 1" in capfd.readouterr().out
    assert list(tmp_path.iterdir()) == []


def test_a_flag_that_triton_does_not_know(small_repository: Path, tmp_path: Path) -> None:
    server = LocalServer(
        repository=small_repository,
        **FREE_PORTS,
        log_path=tmp_path / "server.log",
        triton_flags=("--no-such-flag=1",),
    )
    with pytest.raises(StartError, match=r"does not start .*unrecognized option '--no-such-flag=1'"):
        server.start()


def test_a_start_that_takes_too_long(small_repository: Path, tmp_path: Path) -> None:
    server = LocalServer(
        repository=small_repository,
        **FREE_PORTS,
        log_path=tmp_path / "server.log",
        start_timeout_seconds=0.2,
    )
    with pytest.raises(StartError, match=r"not ready after 0\.2 s, still loading: "):
        server.start()


def test_a_folder_without_a_model(launch: Callable[..., Any], tmp_path: Path) -> None:
    launcher = launch("--model", tmp_path)
    assert launcher.finish() == 2
    assert launcher.stderr.startswith(f"video-llava-serve: {tmp_path} holds no exported model")
    with pytest.raises(RepositoryError, match="is no folder"):
        LocalServer(repository=tmp_path / "missing").start()


@pytest.mark.parametrize("options", [{}, {"model": Path(), "repository": Path()}])
def test_either_a_model_or_a_repository(options: dict[str, Any]) -> None:
    with pytest.raises(OptionError, match="name either the model folder or a repository"):
        LocalServer(**options)


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("red", "--lora takes NAME=DIR"),
        ("red=/nowhere", "--lora red=/nowhere: "),
    ],
)
def test_an_adapter_that_cannot_be_used_is_bad_input(
    launch: Callable[..., Any], tmp_path: Path, option: str, message: str
) -> None:
    tokenizer = Tokenizer(WordLevel({"<image>": 0, "<video>": 1, "?": 2}, unk_token="?"))
    write_model_folder(tmp_path / "model", tokenizer)
    (tmp_path / "model/language_model/config.json").write_text(
        '{"hidden_size": 8, "intermediate_size": 8, "num_attention_heads": 1, "num_hidden_layers": 1}'
    )
    launcher = launch("--model", tmp_path / "model", "--lora", option, *FREE_PORT_OPTIONS)
    assert launcher.finish() == 2
    assert launcher.stderr.startswith(f"video-llava-serve: {message}")
    assert launcher.stderr.count("\n") == 1


def test_an_adapter_needs_a_model_that_it_is_checked_against(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="--lora NAME=DIR goes with --model DIR"):
        ServerOptions(repository=tmp_path, loras={"red": tmp_path})


def test_a_port_in_use(small_repository: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        server = LocalServer(repository=small_repository, http_port=0, grpc_port=port, metrics_port=0)
        with pytest.raises(PortError, match=f"cannot listen on 127.0.0.1:{port}: Address already in use"):
            server.start()


def test_one_port_twice(small_repository: Path) -> None:
    server = LocalServer(repository=small_repository, http_port=28999, grpc_port=28999, metrics_port=0)
    with pytest.raises(PortError, match="the ports must differ, got 28999, 28999"):
        server.start()


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("http_port", 70_000),
        ("cache_megabytes", -1),
        ("start_timeout_seconds", 0),
        ("exit_timeout_seconds", -1),
    ],
)
def test_impossible_options(tmp_path: Path, option: str, value: Any) -> None:
    with pytest.raises(OptionError, match=f"{option} is {value}, expected"):
        ServerOptions(repository=tmp_path, **{option: value})


def test_an_unknown_option(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="unexpected keyword argument 'grpc_prot'"):
        LocalServer(repository=tmp_path, grpc_prot=1)


@pytest.mark.parametrize("num_crashes", [1, 3, 4])
def test_after_a_crash_while_models_load_it_starts_again(monkeypatch: pytest.MonkeyPatch, num_crashes: int) -> None:
    outcomes = [CrashError("tritonserver ended (SIGABRT)")] * num_crashes
    reports: list[str] = []

    def start(_server: LocalServer) -> None:
        if outcomes:
            raise outcomes.pop()

    monkeypatch.setattr(LocalServer, "_start", start)
    server = LocalServer(repository=Path(), report=reports.append)
    with pytest.raises(CrashError, match="SIGABRT") if num_crashes == 4 else nullcontext():
        server.start()
    assert reports == ["tritonserver ended (SIGABRT)\nstarting it again"] * min(num_crashes, 3)
