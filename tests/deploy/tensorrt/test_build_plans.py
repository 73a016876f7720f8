"""The commands that build the plans fit the graphs and the configurations. TensorRT itself needs a GPU."""

import importlib.util
import json
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from google.protobuf import text_format

ROOT = Path(__file__).parents[3]
SCRIPT = ROOT / "deploy/tensorrt/build_plans.py"
model_config_pb2: Any = import_module("tritonclient.grpc.model_config_pb2")  # generated, without types

# Video-LLaVA-7B.
MANIFEST = {
    "image_size": 224,
    "num_frames": 8,
    "tokens_per_frame": 257,
    "tokens_per_image": 256,
    "max_position_embeddings": 4096,
    "dtypes": {"video_encoder": "float16", "image_encoder": "float16"},
}


@pytest.fixture(scope="module")
def build_plans() -> ModuleType:
    spec = importlib.util.spec_from_file_location("build_plans", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["build_plans"] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    (tmp_path / "manifest.json").write_text(json.dumps(MANIFEST), encoding="utf-8")
    for medium in ("video", "image"):
        source = ROOT / f"model_repository/{medium}_encoder/configs/tensorrt.pbtxt"
        target = tmp_path / f"{medium}_encoder/configs/tensorrt.pbtxt"
        target.parent.mkdir(parents=True)
        target.write_text(source.read_text(encoding="utf-8"), encoding="utf-8")
    return tmp_path


def parse(path: Path) -> Any:
    return text_format.Parse(path.read_text(encoding="utf-8"), model_config_pb2.ModelConfig())


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SCRIPT), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_dry_run_prints_the_commands_for_the_7b(repository):
    done = run(repository, "--dry-run")
    assert (done.returncode, done.stderr) == (0, "")
    builds = [line for line in done.stdout.splitlines() if "--onnx=" in line]
    assert len(builds) == 2
    assert (
        "--minShapes=frames:1x0x224x224x3 --optShapes=frames:1x8x224x224x3 --maxShapes=frames:8x8x224x224x3"
        in builds[0]
    )
    assert (
        "--minShapes=frames:1x0x224x224x3 --optShapes=frames:1x1x224x224x3 --maxShapes=frames:8x16x224x224x3"
        in builds[1]
    )
    assert f"--saveEngine={repository}/video_encoder/1/model.plan.part" in builds[0]


def test_the_profile_reaches_as_far_as_the_context(build_plans):
    shapes = build_plans.shapes_of("video", MANIFEST | {"max_position_embeddings": 8192}, max_batch_size=4)
    assert shapes.most == "frames:4x24x224x224x3"


@pytest.mark.parametrize("medium", ["video", "image"])
def test_the_variant_differs_from_the_config_in_the_backend_only(build_plans, medium):
    folder = ROOT / f"model_repository/{medium}_encoder"
    plain, variant = parse(folder / "config.pbtxt"), parse(folder / "configs/tensorrt.pbtxt")
    assert (variant.backend, variant.default_model_filename) == ("tensorrt", "model.plan")
    assert variant.instance_group[0].kind == model_config_pb2.ModelInstanceGroup.KIND_GPU
    assert build_plans.read_max_batch_size(folder / "configs/tensorrt.pbtxt") == variant.max_batch_size
    for config in (plain, variant):
        for field in ("backend", "default_model_filename", "instance_group"):
            config.ClearField(field)
    assert variant == plain


def test_graphs_that_tensorrt_cannot_read_are_refused(repository):
    manifest = MANIFEST | {"dtypes": {"video_encoder": "int8", "image_encoder": "int8"}}
    (repository / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    done = run(repository, "--dry-run")
    assert done.returncode == 2
    assert done.stderr == (
        "build_plans: the encoders are int8, which TensorRT does not read; export with fp16 or fp32\n"
    )


def test_without_an_export_it_says_what_to_do(tmp_path):
    done = run(tmp_path, "--dry-run")
    assert (done.returncode, done.stderr) == (
        2,
        f"build_plans: no {tmp_path}/manifest.json: run video-llava-export CHECKPOINT --into {tmp_path}\n",
    )


def test_without_trtexec_it_says_where_to_run(build_plans, repository, monkeypatch):
    monkeypatch.setenv("PATH", str(repository))
    with pytest.raises(build_plans.BuildError, match="no trtexec in PATH; run this in a container"):
        build_plans.build(repository, dry_run=False)


@pytest.mark.parametrize(("code", "plans"), [(0, 2), (1, 0)])
def test_a_plan_has_its_name_only_when_it_was_built_and_run(build_plans, repository, monkeypatch, code, plans):
    """A stand-in for trtexec that writes the file it is told to, and fails where it is told to."""
    tool = repository / "bin/trtexec"
    tool.parent.mkdir()
    tool.write_text(
        "#!/bin/sh\n"
        'for word in "$@"; do case $word in --saveEngine=*) mkdir -p "$(dirname "${word#*=}")"; : > "${word#*=}";; '
        f"--loadEngine=*) exit {code};; esac; done\n",
        encoding="utf-8",
    )
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tool.parent}:/usr/bin:/bin")
    if code:
        with pytest.raises(build_plans.BuildError, match="trtexec failed on video_encoder"):
            build_plans.build(repository, dry_run=False)
    else:
        build_plans.build(repository, dry_run=False)
    assert len(list(repository.rglob("model.plan"))) == plans
