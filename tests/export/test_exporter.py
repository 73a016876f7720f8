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
from video_llava_server.manifest import LANGUAGE_MODEL, Manifest

# What transformers 4 wrote, and what transformers 5 calls the tensors in memory.
VERSION_4 = {r"^(video|image)_tower\.": r"\1_tower.vision_model."}
VERSION_5 = {
    r"^language_model\.lm_head\.": "lm_head.",
    r"^language_model\.model\.": "model.language_model.",
    r"^(video_tower|image_tower|multi_modal_projector)\.": r"model.\1.",
}


def test_folder_holds_data_only(exported):
    present = {path.relative_to(exported.folder).as_posix() for path in exported.folder.rglob("*") if path.is_file()}
    encoders = {f"encoders/{medium}_encoder.onnx{end}" for medium in ("video", "image") for end in ("", ".data")}
    names = ("config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json")
    assert present == {"manifest.json", *encoders, *(f"language_model/{name}" for name in names)}
    assert exported.folder.name == f"checkpoint0-{Manifest.read(exported.folder).content_digest}"


def test_every_part_equals_the_reference(exported):
    assert [row.part for row in exported.differences] == ["video_encoder", "image_encoder", "vicuna"]
    assert all(row.relative < 1e-5 for row in exported.differences)


@pytest.mark.usefixtures("exported")
def test_progress_is_a_line_a_step_with_size_and_seconds(progress_lines):
    left_out, *steps = progress_lines
    assert left_out.startswith("36 tensors have no effect")
    encoders = ["video_encoder", "image_encoder"]
    assert [line.split()[0] for line in steps] == [*encoders, *encoders, "vicuna", "vicuna"]
    written = [line for line in steps if "=" not in line]
    assert all(re.search(r"\d MB +\d+\.\d s +\d+ MB/s$", line) for line in written)


def test_manifest_holds_the_numbers_of_the_checkpoint(exported, small_checkpoint):
    manifest = json.loads((exported.folder / "manifest.json").read_text(encoding="utf-8"))
    files = manifest.pop("files")
    assert {part: len(recipe) for part, recipe in manifest.pop("recipes").items()} == {
        "encoders": 64,
        "language_model": 64,
    }
    assert manifest.pop("created_by").startswith("video-llava-export ")
    assert manifest == {
        "format": 2,
        "id": exported.folder.name,
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
        "dtypes": {"video_encoder": "float32", "image_encoder": "float32", "features": "float32", "vicuna": "float32"},
        "quantization": None,
        "profile": None,
        "engine_arguments": {},
    }
    for name, described in files.items():
        content = (exported.folder / name).read_bytes()
        assert described == {"size_bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}


@pytest.mark.parametrize(("rules", "num_shards"), [(VERSION_4, 1), (VERSION_5, 3)], ids=["version 4", "version 5"])
def test_every_layout_gives_the_same_tensors(editable, small_checkpoint, rules, num_shards):
    editable.rename_tensors(rules, num_shards=num_shards)
    tensors, expected = editable.open().tensors, open_checkpoint(str(small_checkpoint)).tensors
    assert set(tensors) == set(expected)
    assert all(torch.equal(tensors[name].read(), expected[name].read()) for name in expected)


class Stop(Exception):
    pass


@pytest.mark.usefixtures("fast_graphs")
@pytest.mark.parametrize("step", ["write_graph", "share_weights", "write_shards", "place"])
@pytest.mark.parametrize("interruption", [Stop, KeyboardInterrupt])
def test_interrupted_export_leaves_the_others_alone(
    small_checkpoint, tmp_path, monkeypatch, read_files, step, interruption
):
    checkpoint = open_checkpoint(str(small_checkpoint))
    export(checkpoint, tmp_path)
    before = read_files(tmp_path)

    def interrupt(*_, **__):
        raise interruption("here")

    monkeypatch.setattr(exporter, step, interrupt)
    monkeypatch.setattr(exporter, "take_part", lambda *_, **__: None)
    with pytest.raises(interruption, match="here"):
        export(checkpoint, tmp_path, options=ExportOptions(model_id="other"))
    assert read_files(tmp_path) == before
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.usefixtures("fast_graphs")
def test_half_precision_stays_in_the_language_model(editable, tmp_path):
    editable.replace_tensors({name: tensor.to(torch.bfloat16) for name, tensor in editable.tensors().items()})
    folder = export(editable.open(), tmp_path).folder
    weights = folder / LANGUAGE_MODEL
    assert {tensor.dtype for tensor in load_file(weights / "model.safetensors").values()} == {torch.bfloat16}
    assert AutoConfig.from_pretrained(weights).dtype == torch.bfloat16
    assert Manifest.read(folder).dtypes == {
        "video_encoder": "float32",
        "image_encoder": "float32",
        "features": "float16",
        "vicuna": "bfloat16",
    }


@pytest.mark.usefixtures("fast_graphs")
def test_exports_lie_side_by_side_and_the_same_one_is_written_once(editable, tmp_path, read_files):
    first = export(editable.open(), tmp_path / "models").folder
    before, inode = read_files(first), first.stat().st_ino
    editable.edit("generation_config.json", max_length=5)
    second = export(editable.open(), tmp_path / "models").folder
    editable.edit("generation_config.json", max_length=None)
    third = export(editable.open(), tmp_path / "models").folder
    assert first == third != second
    assert (read_files(first), first.stat().st_ino) == (before, inode)
    assert sorted((tmp_path / "models").iterdir()) == sorted([first, second])
