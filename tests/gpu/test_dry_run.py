"""The kit's scripts from end to end: a model of one layer on the CPU, with the packages of this environment."""

import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from gpu.kit import ROOT, copy_source, make_part

pytestmark = [pytest.mark.server, pytest.mark.timeout(1200)]
_STEPS = {
    "1": ("weights-small", "smoke-eager", "ceilings", "hugging_face"),
    "2": ("encoder", "in_process", "server", "vllm_serve"),
}
_VARIABLES = {
    "DRY": "1",
    "VARIANTS": "eager",
    "PYTHON": sys.executable,
    # The limits are for an idle machine.
    "PATIENCE": "4",
    # One process less for each engine: on CPUs vLLM would start a worker.
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    # More threads than cores that are free wait for each other, busily.
    "OMP_NUM_THREADS": "1",
}
_NVIDIA_SMI = """#!/bin/sh
case "$*" in
    *-lms*) while :; do echo '50, 1000'; sleep 0.1; done ;;
    *=memory.used*) echo 1000 ;;
    *) echo 'no GPU, a script' ;;
esac
"""


@pytest.fixture
def kit(tmp_path: Path) -> Path:
    copy_source(tmp_path / "files/source")
    for number in _STEPS:
        make_part(int(number), tmp_path / "files", tmp_path)
    program = tmp_path / "bin/nvidia-smi"
    program.parent.mkdir()
    program.write_text(_NVIDIA_SMI)
    program.chmod(0o755)
    return tmp_path


def test_every_step_runs_and_the_report_has_every_figure(kit: Path):
    folders = {"KIT": str(kit / "kit"), "MODELS": str(kit / "models"), "PATH": f"{kit / 'bin'}:{os.environ['PATH']}"}
    environment = os.environ | _VARIABLES | folders
    for number, steps in _STEPS.items():
        command = ["bash", str(kit / number / "run.sh"), str(kit / "results")]
        if number == "2":
            output = _run(command, environment | {"STEPS": "server:15", "PATIENCE": "1"})
            assert "server: exit code 124 " in output
            assert not _processes_of(kit)
        output = _run(command, environment)
        for step in steps:
            assert f"{step}: exit code 0 " in output, (kit / f"kit/results/{step}.log").read_text()[-3000:]
    archives = [str(kit / f"results/part{number}.tgz") for number in _STEPS]
    report = _run([sys.executable, "-m", "gpu.report", *archives], os.environ | {"PYTHONPATH": str(ROOT / "tests")})
    assert "not measured" not in report
    assert report.count("met |") == 10
    assert " tokens of this server are those of `model.generate`" in report
    assert "| 50% | 1.0 |" in report
    assert "exit code 124" not in report


def _processes_of(folder: Path) -> list[str]:
    commands = [" ".join(process.info["cmdline"] or ()) for process in psutil.process_iter(["cmdline"])]
    return [command for command in commands if str(folder) in command]


def _run(command: list[str], environment: dict[str, str]) -> str:
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout
