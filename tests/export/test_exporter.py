import hashlib
import json
import re

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoConfig
from video_llava_export import exporter
from video_llava_export.checkpoint import open_checkpoint
from video_llava_export.exporter import ExportOptions, export
from video_llava_export.files import FileFacts

# What transformers 4 wrote, and what transformers 5 calls the tensors in memory.
VERSION_4 = {r"^(video|image)_tower\.": r"\1_tower.vision_model."}
VERSION_5 = {
    r"^language_model\.lm_head\.": "lm_head.",
    r"^language_model\.model\.": "model.language_model.",
    r"^(video_tower|image_tower|multi_modal_projector)\.": r"model.\1.",
}


def test_repository_is_complete(exported):
    present = {path.relative_to(exported.repository).as_posix() for path in exported.repository.rglob("*")}
    assert {
        "manifest.json",
        "video_llava/config.pbtxt",
        "video_encoder/1/model.onnx",
        "image_encoder/1/model.onnx",
        "vicuna/1/model.py",
        "vicuna/1/weights/config.json",
        "vicuna/1/weights/generation_config.json",
        "vicuna/1/weights/model.safetensors",
        "vicuna/1/weights/tokenizer.json",
        "vicuna/1/weights/tokenizer_config.json",
    } <= present
    assert not [name for name in present if name.startswith(".")]


def test_every_part_equals_the_reference(exported):
    assert [row.part for row in exported.differences] == ["video_encoder", "image_encoder", "vicuna"]
    assert all(row.relative < 1e-5 for row in exported.differences)


def test_progress_is_a_line_a_step_with_size_and_seconds(exported):
    names = [line.split()[0] for line in exported.progress]
    assert names == ["video_encoder", "image_encoder", "vicuna"] * 2
    assert all(re.search(r"\d MB +\d+\.\d s +\d+ MB/s$", line) for line in exported.progress[:3])


def test_manifest_holds_the_numbers_of_the_checkpoint(exported, small_checkpoint):
    manifest = json.loads((exported.repository / "manifest.json").read_text(encoding="utf-8"))
    files = manifest.pop("files")
    assert manifest.pop("created_by").startswith("video-llava-export ")
    assert manifest == {
        "format": 1,
        "source": str(small_checkpoint),
        "revision": None,
        "image_size": 56,
        "num_frames": 8,
        "tokens_per_frame": 17,
        "tokens_per_image": 16,
        "hidden_size": 128,
        "vocab_size": 1024,
        "max_position_embeddings": 2048,
        "image_token": "<image>",
        "image_token_id": 1000,
        "video_token": "<video>",
        "video_token_id": 1001,
        "dtypes": {"video_encoder": "float32", "image_encoder": "float32", "vicuna": "float32"},
        "quantization": None,
        "profile": None,
    }
    assert "video_encoder/1/model.onnx" in files


def test_manifest_describes_every_exported_file(exported):
    manifest = json.loads((exported.repository / "manifest.json").read_text(encoding="utf-8"))
    weights = sorted((exported.repository / "vicuna/1/weights").iterdir())
    names = [f"vicuna/1/weights/{path.name}" for path in weights]
    graphs = [f"{medium}_encoder/1/model.onnx{end}" for medium in ("image", "video") for end in ("", ".data")]
    assert sorted(manifest["files"]) == sorted([*graphs, *names])
    for name, described in manifest["files"].items():
        content = (exported.repository / name).read_bytes()
        assert described == {"size_bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}


@pytest.mark.parametrize(("rules", "num_shards"), [(VERSION_4, 1), (VERSION_5, 3)], ids=["version 4", "version 5"])
def test_every_layout_gives_the_same_files(editable, exported, skeleton, tmp_path, rules, num_shards):
    editable.rename_tensors(rules, num_shards=num_shards)
    export(editable.open(), tmp_path / "repository", options=ExportOptions(skeleton=skeleton))
    for name in json.loads((exported.repository / "manifest.json").read_text(encoding="utf-8"))["files"]:
        assert FileFacts.of(tmp_path / "repository" / name) == FileFacts.of(exported.repository / name), name


class Stop(Exception):
    pass


@pytest.mark.usefixtures("fast_graphs")
@pytest.mark.parametrize("step", ["write_graph", "write_language_model", "_verify", "write_manifest", "install"])
@pytest.mark.parametrize("interruption", [Stop, KeyboardInterrupt])
def test_interrupted_export_leaves_the_old_model(
    small_checkpoint, skeleton, tmp_path, monkeypatch, read_files, step, interruption
):
    checkpoint, options = open_checkpoint(str(small_checkpoint)), ExportOptions(skeleton=skeleton)
    export(checkpoint, tmp_path / "old", options=options)
    before = read_files(tmp_path)

    def interrupt(*_, **__):
        raise interruption("here")

    monkeypatch.setattr(exporter, step, interrupt)
    for name in ("old", "new"):
        with pytest.raises(interruption, match="here"):
            export(checkpoint, tmp_path / name, options=options)
    assert read_files(tmp_path) == before
    assert not (tmp_path / "new").exists()
    assert not list(tmp_path.rglob(".*"))


@pytest.mark.usefixtures("fast_graphs")
def test_half_precision_stays_in_the_language_model(editable, skeleton, tmp_path):
    editable.replace_tensors({name: tensor.to(torch.bfloat16) for name, tensor in editable.tensors().items()})
    export(editable.open(), tmp_path / "repository", options=ExportOptions(skeleton=skeleton))
    weights = tmp_path / "repository/vicuna/1/weights"
    assert {tensor.dtype for tensor in load_file(weights / "model.safetensors").values()} == {torch.bfloat16}
    assert AutoConfig.from_pretrained(weights).dtype == torch.bfloat16
    manifest = json.loads((tmp_path / "repository/manifest.json").read_text(encoding="utf-8"))
    assert manifest["dtypes"] == {"video_encoder": "float32", "image_encoder": "float32", "vicuna": "bfloat16"}


@pytest.mark.usefixtures("fast_graphs")
def test_second_export_replaces_the_first(editable, skeleton, tmp_path):
    repository, options = tmp_path / "repository", ExportOptions(skeleton=skeleton)
    export(editable.open(), repository, options=ExportOptions(skeleton=skeleton, max_shard_bytes=500_000))
    assert len(list((repository / "vicuna/1/weights").glob("*.safetensors"))) > 1
    export(editable.open(), repository, options=options)
    assert [path.name for path in (repository / "vicuna/1/weights").glob("*.safetensors*")] == ["model.safetensors"]
