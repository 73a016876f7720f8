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
    "format": 2,
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
def model(tmp_path: Path) -> Path:
    (tmp_path / "model").mkdir()
    (tmp_path / "model/manifest.json").write_text(json.dumps(MANIFEST), encoding="utf-8")
    return tmp_path / "model"


def parse(path: Path) -> Any:
    return text_format.Parse(path.read_text(encoding="utf-8"), model_config_pb2.ModelConfig())


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SCRIPT), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_dry_run_prints_the_commands_for_the_7b(model, tmp_path):
    done = run(model, "--into", tmp_path / "plans", "--dry-run")
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
    assert (
        f"--onnx={model}/encoders/video_encoder.onnx --saveEngine={tmp_path}/plans/video_encoder.plan.part" in builds[0]
    )
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_the_batch_is_that_of_an_edited_configuration(model, tmp_path):
    edited = tmp_path / "overlay/video_encoder/configs/tensorrt.pbtxt"
    edited.parent.mkdir(parents=True)
    edited.write_text("max_batch_size: 3\n", encoding="utf-8")
    done = run(model, "--into", tmp_path / "plans", "--overlay", tmp_path / "overlay", "--dry-run")
    assert "--maxShapes=frames:3x8x" in done.stdout
    assert "--maxShapes=frames:8x16x" in done.stdout


def test_the_profile_reaches_as_far_as_the_context(build_plans):
    shapes = build_plans.shapes_of("video", MANIFEST | {"max_position_embeddings": 8192}, max_batch_size=4)
    assert shapes.most == "frames:4x24x224x224x3"


@pytest.mark.parametrize("medium", ["video", "image"])
def test_the_variant_differs_from_the_one_for_onnx_runtime_in_the_backend_only(build_plans, medium):
    folder = ROOT / f"model_repository/{medium}_encoder"
    plain, variant = parse(folder / "configs/gpu.pbtxt"), parse(folder / "configs/tensorrt.pbtxt")
    assert (variant.backend, variant.default_model_filename) == ("tensorrt", f"{medium}_encoder.plan")
    assert build_plans.read_max_batch_size(folder / "configs/tensorrt.pbtxt") == variant.max_batch_size
    for config in (plain, variant):
        for field in ("backend", "default_model_filename", "parameters"):
            config.ClearField(field)
    assert variant == plain


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"dtypes": {"video_encoder": "int8"}},
            "the encoders are int8, which TensorRT does not read; export with fp16 or fp32",
        ),
        ({"format": 1}, "has format 1, this release reads 2; export or convert the model"),
    ],
    ids=str,
)
def test_model_that_cannot_be_built_is_refused(model, tmp_path, values, message):
    (model / "manifest.json").write_text(json.dumps(MANIFEST | values), encoding="utf-8")
    done = run(model, "--into", tmp_path / "plans", "--dry-run")
    assert done.returncode == 2
    assert done.stderr.startswith("build_plans: ")
    assert done.stderr.endswith(f"{message}\n")


def test_without_an_export_it_says_what_to_do(tmp_path):
    done = run(tmp_path, "--into", tmp_path / "plans", "--dry-run")
    assert done.returncode == 2
    assert done.stderr.startswith(f"build_plans: no {tmp_path}/manifest.json: name the folder that ")


def test_without_trtexec_it_says_where_to_run(build_plans, model, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(build_plans.BuildError, match="no trtexec in PATH; run this in a container"):
        build_plans.build(model, tmp_path / "plans", dry_run=False)


@pytest.mark.parametrize("code", [0, 1])
def test_a_plan_has_its_name_only_when_it_was_built_and_run(build_plans, model, tmp_path, monkeypatch, code):
    """A stand-in for trtexec that writes the file it is told to, and fails where it is told to."""
    tool = tmp_path / "bin/trtexec"
    tool.parent.mkdir()
    tool.write_text(
        "#!/bin/sh\n"
        'for word in "$@"; do case $word in --saveEngine=*) : > "${word#*=}";; '
        f"--loadEngine=*) exit {code};; esac; done\n",
        encoding="utf-8",
    )
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tool.parent}:/usr/bin:/bin")
    before = sorted(model.iterdir())
    if code:
        with pytest.raises(build_plans.BuildError, match="trtexec failed on video_encoder"):
            build_plans.build(model, tmp_path / "plans", dry_run=False)
    else:
        build_plans.build(model, tmp_path / "plans", dry_run=False)
    plans = [] if code else ["image_encoder.plan", "video_encoder.plan"]
    assert sorted(path.name for path in (tmp_path / "plans").glob("*.plan")) == plans
    assert sorted(model.iterdir()) == before
