"""A second export of the same weights takes the parts that an earlier one has written."""

import os
from dataclasses import replace

import numpy as np
import pytest
import torch
from video_llava_export import exporter, files
from video_llava_export.check import check
from video_llava_export.checkpoint import open_checkpoint
from video_llava_export.exporter import ExportOptions, export
from video_llava_export.graph import Precision
from video_llava_export.language_model import Dtype
from video_llava_export.profiles import Hardware
from video_llava_export.progress import Progress
from video_llava_export.reuse import recipe_of
from video_llava_server.manifest import LANGUAGE_MODEL, Manifest, encoder_path

WEIGHTS = f"{LANGUAGE_MODEL}/model.safetensors"
FIRST = ExportOptions(model_id="first")


@pytest.fixture
def again(editable, tmp_path, fast_graphs):  # noqa: ARG001 - graphs are only files
    """Export the checkpoint, then again as `second`: the two folders, and what the second export told."""
    models = tmp_path / "models"

    def run(options=FIRST, between=lambda _: None):
        first = export(editable.open(), models, options=FIRST).folder
        between(first)
        told = []
        second = export(
            editable.open(), models, options=replace(options, model_id="second"), progress=Progress(told.append)
        ).folder
        return first, second, [line.split()[0] for line in told if "left out" not in line]

    return run


@pytest.mark.parametrize(
    "options", [FIRST, ExportOptions(hardware=Hardware.parse("cpu"), engine_arguments={"dtype": "float32"})]
)
def test_another_id_or_profile_links_the_language_model_and_copies_the_encoders(again, read_files, options):
    first, second, told = again(options)
    assert told[-2:] == ["language_model", "encoders"]
    assert (second / WEIGHTS).samefile(first / WEIGHTS)
    assert not (second / encoder_path("video")).samefile(first / encoder_path("video"))
    before, after = (read_files(folder) for folder in (first, second))
    assert {name for name in before if before[name] != after[name]} == {"manifest.json"}


def test_a_real_second_export_is_whole(small_checkpoint, exported):
    models = exported.folder.parent
    second = export(open_checkpoint(str(small_checkpoint)), models, options=ExportOptions(model_id="again"))
    assert second.differences == []
    assert (second.folder / WEIGHTS).samefile(exported.folder / WEIGHTS)
    assert check(second.folder).problems == ()


def test_another_precision_makes_the_encoders_anew(again):
    first, second, told = again(replace(FIRST, precision=Precision.FP16))
    assert told == ["language_model", "video_encoder", "image_encoder"]
    assert (second / WEIGHTS).samefile(first / WEIGHTS)


@pytest.mark.parametrize("options", [replace(FIRST, dtype=Dtype.BFLOAT16), replace(FIRST, max_shard_bytes=600_000)])
def test_other_weights_are_written(again, options):
    _, second, told = again(options)
    assert "language_model" not in told
    assert not any(path.stat().st_nlink > 1 for path in second.rglob("*") if path.is_file())


def test_the_encoders_are_compared_again_on_frames_that_are_given(again, monkeypatch):
    frames, compared = np.zeros((8, 56, 56, 3), np.uint8), []
    monkeypatch.setattr(exporter._Export, "_verify_encoders", lambda *arguments: compared.append(arguments[-1]) or [])
    *_, told = again(replace(FIRST, probe_frames=frames))
    assert told == ["language_model", "encoders"]
    assert (compared[-1].video == 0).all()


def rewrite(path):
    """The same size and time of modification, as `touch -r` and some tools of synchronisation leave them."""
    status = path.stat()
    with path.open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        last = file.read(1)
        file.seek(-1, os.SEEK_END)
        file.write(bytes([last[0] ^ 1]))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def test_a_checkpoint_that_was_written_to_is_read_again(again, editable):
    first, second, told = again(between=lambda _: rewrite(editable.folder / "model.safetensors"))
    assert "language_model" not in told
    assert (first / WEIGHTS).read_bytes()[:-1] == (second / WEIGHTS).read_bytes()[:-1]


def cut(folder):
    with (folder / WEIGHTS).open("r+b") as file:
        file.truncate(1000)


def touch(folder):
    written = (folder / "manifest.json").stat().st_mtime_ns
    os.utime(folder / WEIGHTS, ns=(written, written + 1))


def remove_recipes(folder):
    replace(Manifest.read(folder), recipes={}).write(folder)


def spoil_manifest(folder):
    (folder / "manifest.json").write_text("{", encoding="utf-8")


def remove(folder):
    (folder / WEIGHTS).unlink()


@pytest.mark.parametrize("damage", [cut, touch, remove, remove_recipes, spoil_manifest])
def test_parts_that_may_be_damaged_are_written_anew(again, damage):
    _, second, told = again(between=damage)
    assert "language_model" not in told
    assert (second / WEIGHTS).stat().st_nlink == 1
    assert all("onnx" in problem for problem in check(second).problems)


def test_a_copied_encoder_must_have_its_hash(again):
    def spoil(folder):
        path = folder / encoder_path("video")
        status = path.stat()
        path.write_bytes(b"grapH")
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))

    _, second, told = again(between=spoil)
    assert told == ["language_model", "video_encoder", "image_encoder"]
    assert (second / encoder_path("video")).read_bytes() == b"graph"


def test_a_file_system_without_links_gets_everything_written(again, monkeypatch):
    def refuse(*_):
        raise OSError("no hard links here")

    monkeypatch.setattr(files.os, "link", refuse)
    _, second, told = again()
    assert told == ["encoders", "vicuna"]
    assert (second / WEIGHTS).stat().st_nlink == 1


def test_what_cannot_be_described_has_no_recipe():
    with pytest.raises(TypeError, match="a Tensor has no description"):
        recipe_of(torch.zeros(1))
