"""Code and weights are put together at a server's start; a model folder holds no code and is never changed."""

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from video_llava_server.limits import read_limits
from video_llava_server.manifest import FileFacts, ModelFolderError
from video_llava_server.repository import assemble, common_flags

SOURCE = Path(__file__).parents[3] / "model_repository"
KEY = "an operators key"
COMMAND = Path(sys.executable).with_name("video-llava-assemble")


@pytest.fixture
def model(make_model, tmp_path):
    files = {"encoders/video_encoder.onnx": FileFacts(size_bytes=5, sha256="")}
    folder = make_model(
        tmp_path / "models/words", engine_arguments={"dtype": "float16", "max_num_seqs": 4}, files=files
    )
    (folder / "encoders").mkdir()
    (folder / "encoders/video_encoder.onnx").write_bytes(b"graph")
    return folder


def snapshot(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_it_is_the_releases_code_with_references_to_the_weights(model, tmp_path):
    before = snapshot(model)
    into = tmp_path / "repository"
    assemble(model, into, engine_arguments={"max_num_seqs": 9})
    assert snapshot(model) == before
    committed = {path.relative_to(SOURCE) for path in SOURCE.rglob("*.p*") if "__pycache__" not in path.parts}
    assert all((into / path).read_bytes().startswith((SOURCE / path).read_bytes()) for path in committed)
    assert (into / "video_encoder/1/video_encoder.onnx").read_bytes() == b"graph"
    assert (into / "image_encoder/1").resolve() == model / "encoders"
    assert (into / "manifest.json").resolve() == model / "manifest.json"
    assert json.loads((into / "vicuna/1/model.json").read_text()) == {
        "dtype": "float16",
        "gpu_memory_utilization": 0.8,
        "max_num_batched_tokens": 4096,
        "max_num_seqs": 9,
        "model": str(model / "language_model"),
        "scheduling_policy": "priority",
    }


def test_the_limits_stand_in_intakes_configuration(make_model, tmp_path):
    text_format = pytest.importorskip("google.protobuf.text_format")
    messages = pytest.importorskip("tritonclient.grpc.model_config_pb2")
    model = make_model(tmp_path / "models/words", conventions={"system": 'Say "yes".\nÄ \\ 1'})
    assemble(model, tmp_path / "repository", engine_arguments={"max_model_len": 77})
    text = (tmp_path / "repository/intake/config.pbtxt").read_text(encoding="utf-8")
    config = text_format.Parse(text, messages.ModelConfig())
    published = json.loads(config.parameters["limits"].string_value)
    assert published == json.loads(read_limits(tmp_path / "repository").to_json())
    assert (published["max_model_len"], published["system"]) == (77, 'Say "yes".\nÄ \\ 1')


def test_an_overlay_replaces_configurations_and_plans_the_graphs(model, tmp_path):
    overlay, plans, into = tmp_path / "overlay", tmp_path / "plans", tmp_path / "repository"
    (overlay / "relay").mkdir(parents=True)
    (overlay / "relay/config.pbtxt").write_text("# mine")
    plans.mkdir()
    assemble(model, into, overlay=overlay, plans=plans)
    assert (into / "relay/config.pbtxt").read_text() == "# mine"
    assert (into / "vicuna/config.pbtxt").read_bytes() == (SOURCE / "vicuna/config.pbtxt").read_bytes()
    assert (into / "video_encoder/1").resolve() == plans


def test_adapters_lie_beside_the_engines_arguments_which_make_room_for_them(model, tmp_path, monkeypatch):
    class Adapter(SimpleNamespace):
        max_rank = 9

        @classmethod
        def open(cls, name, folder, language_model):
            if not folder.name == "red":
                raise ModelFolderError(f"--lora {name}={folder}: no")
            return cls(name=name, kinds=["q_proj"], write=lambda into: into.mkdir(parents=True), base=language_model)

    monkeypatch.setattr("video_llava_server.repository.LoraAdapter", Adapter)
    with pytest.raises(ModelFolderError, match="--lora mine=blue: no"):
        assemble(model, tmp_path / "repository", loras={"mine": Path("blue")})
    assert not (tmp_path / "repository").exists()
    assemble(model, tmp_path / "repository", loras={"mine": Path("red")}, engine_arguments={"max_lora_rank": 64})
    arguments = json.loads((tmp_path / "repository/vicuna/1/model.json").read_text())
    assert {name: value for name, value in arguments.items() if "lora" in name} == {
        "enable_lora": True,
        "max_lora_rank": 64,
        "max_loras": 1,
        "max_cpu_loras": 1,
        "lora_target_modules": ["q_proj"],
    }
    assert json.loads((tmp_path / "repository/vicuna/1/multi_lora.json").read_text()) == {
        "mine": str(tmp_path / "repository/vicuna/1/lora/mine")
    }


@pytest.mark.parametrize(
    ("facts", "own", "left"),
    [
        ({"profile": {"name": "24gb"}}, {}, 700),
        ({"profile": {"name": "24gb"}}, {"kv_cache_memory_bytes": 900}, 900),
        ({}, {}, 1000),
    ],
)
def test_adapters_take_their_room_from_the_profiles_kv_cache(make_model, tmp_path, monkeypatch, facts, own, left):
    arguments = {"gpu_memory_utilization": 0.9, "kv_cache_memory_bytes": 1000}
    folder = make_model(tmp_path / "models/words", engine_arguments=arguments, **facts)
    monkeypatch.setattr("video_llava_server.repository.room_bytes", lambda *_: 300)
    assemble(folder, tmp_path / "repository", engine_arguments=own)
    made = json.loads((tmp_path / "repository/vicuna/1/model.json").read_text())
    assert made["kv_cache_memory_bytes"] == left


def test_two_models_stand_side_by_side(make_model, tmp_path):
    for name in ("old", "new"):
        assemble(make_model(tmp_path / "models" / name), tmp_path / name)
    assert {(tmp_path / name / "manifest.json").resolve().parent.name for name in ("old", "new")} == {"old", "new"}


def break_format(folder: Path, value: object) -> None:
    path = folder / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format": value}))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (
            lambda folder: (folder / "manifest.json").unlink(),
            "holds no exported model .* `video-llava-export",
        ),
        (lambda folder: (folder / "manifest.json").write_text("{"), "is not JSON .*; export again"),
        (lambda folder: (folder / "manifest.json").write_text('{"format": 2}'), "is damaged"),
        (lambda folder: break_format(folder, 1), "has format 1, .*video-llava-export convert .* --into DIR"),
        (lambda folder: break_format(folder, 3), "has format 3, this release reads 2"),
        (lambda folder: (folder / "encoders/video_encoder.onnx").unlink(), "is missing, the export wrote 5"),
        (lambda folder: (folder / "encoders/video_encoder.onnx").write_bytes(b"g"), "has 1 bytes, the export wrote 5"),
    ],
)
def test_a_folder_that_is_no_model_is_refused_with_what_to_do(model, tmp_path, spoil, message):
    spoil(model)
    with pytest.raises(ModelFolderError, match=message):
        assemble(model, tmp_path / "repository")
    assert not (tmp_path / "repository").exists()


def test_the_command_prints_the_flags_for_a_tritonserver(model, tmp_path):
    into = tmp_path / "repository"
    done = subprocess.run(
        [COMMAND, "--model", model, "--into", into, "--admin-key", KEY],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert done.stdout == f"Next: tritonserver {' '.join(common_flags(into, admin_key=KEY))}\n"
    again = subprocess.run(
        [COMMAND, "--model", model, "--into", into], capture_output=True, text=True, check=False, timeout=60
    )
    assert (again.returncode, "is not empty" in again.stderr) == (2, True)


@pytest.mark.parametrize("option", ["overlay", "plans"])
def test_a_missing_folder_is_named(model, tmp_path, option):
    with pytest.raises(ModelFolderError, match=f"--{option} .*missing is no folder"):
        assemble(model, tmp_path / "repository", **{option: tmp_path / "missing"})


@pytest.mark.parametrize("text", ["{", "[]", '{"model": "x"}'])
def test_engine_arguments_that_are_none_are_bad_input(model, tmp_path, text):
    command = [COMMAND, "--model", model, "--into", tmp_path / "r", "--engine-arguments", text]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, "--engine-arguments" in done.stderr) == (2, True)


@pytest.mark.parametrize(
    ("variable", "options", "name"),
    [("", [], ""), ("gpu", [], "gpu"), ("gpu", ["--plans", "."], "tensorrt")],
    ids=["own", "image", "plans"],
)
def test_tritonserver_gets_this_releases_flags_and_then_the_callers(
    model, tmp_path, monkeypatch, variable, options, name
):
    program = tmp_path / "bin/tritonserver"
    program.parent.mkdir()
    program.write_text('#!/bin/sh\nprintf "%s\\n" "$@" "$VIDEO_LLAVA_REQUEST_LOG"\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(program.parent), prepend=":")
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setenv("VIDEO_LLAVA_ADMIN_KEY", KEY)
    monkeypatch.setenv("VIDEO_LLAVA_MODEL_CONFIG_NAME", variable)
    options = ["--model", model, "--request-log", "/logs,chain", *options]
    command = [COMMAND.with_name("video-llava-tritonserver"), *options, "--", "--grpc-port=1"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    flags = done.stdout.splitlines()
    repository = Path(flags[0].removeprefix("--model-repository="))
    assert flags == [*common_flags(repository, admin_key=KEY, model_config_name=name), "--grpc-port=1", "/logs,chain"]
    assert (repository / "manifest.json").resolve() == model / "manifest.json"
