"""Triton's and vLLM's log lines, as they were printed by the versions that are pinned here."""

import re
from pathlib import Path

import pytest
from video_llava_serve._log import LogFile, LogPipe, ServerLog, shorten

ENGINE_FAILURE = r"""(VllmWorker-0 pid=9770) ERROR 11-23 03:02:31 [multiproc_executor.py:953]     raise RuntimeError(
(VllmWorker-0 pid=9770) ERROR 11-23 03:02:31 [multiproc_executor.py:953] RuntimeError: Cannot find any model weights with `/w`
(EngineCore pid=9735) ERROR 11-23 03:02:34 [core.py:1510] Exception: WorkerProc initialization failed due to an exception in a background process. See stack trace for root cause.
E1123 03:02:39.380862 9690 model_lifecycle.cc:642] "failed to load 'vicuna' version 1: Internal: RuntimeError: Engine core initialization failed. See root cause above. Failed core proc(s): {'EngineCore': 1}\n\nAt:\n  /m/1/model.py(6): initialize\n"
"""  # noqa: E501
NO_KERNEL = r"""(Worker pid=13667) ERROR 11-28 03:49:50 [multiproc_executor.py:953] ValueError: Failed to find a kernel that can implement the WNA16 linear layer. Reasons: 
(Worker pid=13667) ERROR 11-28 03:49:50 [multiproc_executor.py:953]  ZentorchWNA16LinearKernel cannot implement due to: ZentorchWNA16 requires an AMD Zen CPU.
(Worker pid=13667) ERROR 11-28 03:49:50 [multiproc_executor.py:953]  CPUWNA16LinearKernel cannot implement due to: Quant type (uint8b128) not supported by CPUWNA16
(EngineCore pid=13222) ERROR 11-28 03:49:56 [core.py:1510] EngineCore failed to start.
(EngineCore pid=13222) ERROR 11-28 03:49:56 [core.py:1510]     raise e
E1128 03:50:31.612872 5945 model_lifecycle.cc:642] "failed to load 'vicuna' version 1: Internal: RuntimeError: Engine core initialization failed. See root cause above. Failed core proc(s): {}\n\nAt:\n  /m/1/model.py(6): initialize\n"
"""  # noqa: E501, W291
BAD_CONFIG = r"""[libprotobuf ERROR /tmp/text_format.cc:337] Error parsing text-format inference.ModelConfig: 1:33: no field named "nonsense".
E1123 03:00:13.465900 8841 model_repository_manager.cc:1460] "Poll failed for model directory 'cfg': failed to read text proto from /r/cfg/config.pbtxt"
"""  # noqa: E501
DEAD_STUB = r"""E1123 03:00:30.389772 8992 model_lifecycle.cc:642] "failed to load 'dies' version 1: Internal: Stub process 'dies_0' is not healthy."
"""  # noqa: E501
NO_PORT = r"""E1123 03:00:30.389772 8992 server.cc:241] "CudaDriverHelper has not been initialized."
E1123 03:00:30.389772 8992 main.cc:279] "failed to start GRPC service: Unavailable - Socket already in use "
E1123 03:00:30.389772 8992 server.cc:241] "CudaDriverHelper has not been initialized."
"""


@pytest.fixture
def log(tmp_path: Path) -> ServerLog:
    path = tmp_path / "server.log"
    path.touch()
    return ServerLog(LogFile(path))


def read(log: ServerLog, text: str) -> ServerLog:
    with log.source.open() as file:
        file.write(text.encode())
    log.read()
    return log


def test_a_model_that_has_loaded_and_triton_has_not_noticed(log: ServerLog) -> None:
    read(log, 'I1123 02:50:07.330877 6327 model_lifecycle.cc:472] "loading: vicuna:1"\n')
    assert log.hanging(0.0) is None
    read(log, "[vicuna] loaded\n")
    assert log.hanging(0.0) == "vicuna"
    assert log.hanging(60.0) is None
    read(log, "I1123 02:50:08.739385 6327 model_lifecycle.cc:839] \"successfully loaded 'vicuna'\"\n")
    assert log.hanging(0.0) is None


def test_models_load_one_by_one(log: ServerLog) -> None:
    read(log, 'I1123 02:50:07.330877 6327 model_lifecycle.cc:472] "loading: relay:1"\n')
    read(log, 'I1123 02:50:07.330877 6327 model_lifecycle.cc:472] "loading: vicuna:1"\n')
    assert (log.loading, log.ready) == ({"relay", "vicuna"}, [])
    read(log, "I1123 02:50:08.739385 6327 model_lifecycle.cc:839] \"successfully loaded 'relay'\"\n")
    assert (log.loading, log.ready) == ({"vicuna"}, ["relay"])


def test_half_a_line_waits_for_its_end(log: ServerLog) -> None:
    read(log, 'I1123 02:50:07.330877 6327 model_lifecycle.cc:472] "loading: rel')
    assert log.loading == set()
    read(log, 'ay:1"\n')
    assert log.loading == {"relay"}


def test_a_pipe_goes_to_standard_output_and_remembers_a_megabyte(capfd: pytest.CaptureFixture[str]) -> None:
    pipe = LogPipe()
    with pipe.open() as output:
        output.write(b"first\n" + b"x" * 2**20 + b"\nlast\n")
    pipe.close()
    written = capfd.readouterr().out
    assert written.startswith("first\nxxx")
    assert written.endswith("xxx\nlast\n")
    remembered = pipe.read()
    assert len(remembered) == 2**20
    assert remembered.endswith(b"xxx\nlast\n")
    assert pipe.read() == b""


@pytest.mark.parametrize(
    ("text", "model", "cause"),
    [
        (ENGINE_FAILURE, "vicuna", "RuntimeError: Cannot find any model weights with `/w`"),
        (BAD_CONFIG, "cfg", 'failed to read text proto from .*: Error parsing .* no field named "nonsense".'),
        (DEAD_STUB, "dies", "its Python process ended without an exception"),
    ],
)
def test_the_cause_behind_the_message(log: ServerLog, text: str, model: str, cause: str) -> None:
    failure = read(log, text).failures[0]
    assert failure.model == model
    assert re.match(cause, failure.cause)


def test_the_last_error_is_not_what_every_machine_without_a_gpu_says(log: ServerLog) -> None:
    assert read(log, NO_PORT).last_error.startswith("failed to start GRPC service")


def test_a_first_line_that_is_not_tritons_is_its_refusal(log: ServerLog) -> None:
    assert read(log, "/bin/tritonserver: unrecognized option '--x'\nUsage: ...\n").last_error.endswith("'--x'")


def test_shortened_to_one_line() -> None:
    text = "Internal: ValueError: first\n  second\n\nAt:\n  /m/1/model.py(6): initialize\n"
    assert shorten(text) == "ValueError: first second"
    assert shorten("Traceback (most recent call last):\n  File\nKeyError: 'x'\n") == "KeyError: 'x'"
    assert len(shorten("x" * 5000)) < 700


def test_weights_that_no_kernel_takes_are_named_with_each_kernels_reason(log: ServerLog) -> None:
    (failure,) = read(log, NO_KERNEL).failures
    assert failure.cause == (
        "ValueError: Failed to find a kernel that can implement the WNA16 linear layer. Reasons: "
        "ZentorchWNA16LinearKernel cannot implement due to: ZentorchWNA16 requires an AMD Zen CPU.; "
        "CPUWNA16LinearKernel cannot implement due to: Quant type (uint8b128) not supported by CPUWNA16"
    )
