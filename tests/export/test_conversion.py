import json
import shutil
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from video_llava_export import files
from video_llava_export.check import check
from video_llava_export.conversion import convert
from video_llava_export.external_weights import weights_path
from video_llava_export.files import facts_of
from video_llava_server.manifest import LANGUAGE_MODEL, Manifest, ModelFolderError, encoder_path

MEDIA = ("video", "image")


@pytest.fixture
def old(exported, tmp_path) -> Path:
    """The finished export in the layout of format 1: code beside the weights, each graph with all of its own."""
    old = tmp_path / "old"
    for medium in MEDIA:
        path = old / f"{medium}_encoder/1/model.onnx"
        path.parent.mkdir(parents=True)
        graph = onnx.load(exported.folder / encoder_path(medium))
        onnx.save_model(graph, path, save_as_external_data=True, location=weights_path(path).name, size_threshold=1024)
        path.with_name("model.plan").touch()
    shutil.copytree(exported.folder / LANGUAGE_MODEL, old / "vicuna/1/weights")
    (old / "vicuna/1/model.py").touch()
    arguments = {"model": "weights", "dtype": "float32", "max_model_len": 1024}
    (old / "vicuna/1/model.json").write_text(json.dumps(arguments), encoding="utf-8")
    paths = [*old.glob("*_encoder/1/model.onnx*"), *old.glob("vicuna/1/weights/*")]
    facts = json.loads((exported.folder / "manifest.json").read_text(encoding="utf-8"))
    del facts["id"], facts["engine_arguments"]
    files = {path.relative_to(old).as_posix(): vars(facts_of(path)) for path in paths}
    manifest = facts | {"format": 1, "created_by": "video-llava-export 0.1.0", "files": files}
    (old / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    return old


def features(path):
    frames = np.random.default_rng(0).integers(0, 256, (1, 2, 56, 56, 3), dtype=np.uint8)
    return np.asarray(onnxruntime.InferenceSession(path).run(None, {"frames": frames})[0])


@pytest.mark.parametrize("links", [True, False])
def test_format_1_becomes_a_whole_model_folder(run, old, exported, tmp_path, read_files, monkeypatch, links):
    def refuse(*_):
        raise OSError("no hard links here")

    if not links:
        monkeypatch.setattr(files.os, "link", refuse)
    before = read_files(old)
    code, out, err = run("convert", old, "--into", tmp_path / "models", "--id", "converted")
    folder = tmp_path / "models/converted"
    assert (code, out) == (0, f"\nNext: video-llava-serve --model {folder}\n")
    assert f"{'linked' if links else 'copied'} the language model of {old}" in err
    assert read_files(old) == before
    assert check(folder).problems == ()
    assert sorted(read_files(folder)) == sorted(read_files(exported.folder))
    shards = [path / "model.safetensors" for path in (folder / LANGUAGE_MODEL, old / "vicuna/1/weights")]
    assert shards[0].samefile(shards[1]) == links
    for medium in MEDIA:
        expected = features(exported.folder / encoder_path(medium))
        np.testing.assert_array_equal(features(folder / encoder_path(medium)), expected)


def test_manifest_takes_the_facts_and_the_engine_arguments(old, exported, tmp_path):
    manifest, original = Manifest.read(convert(old, tmp_path)), Manifest.read(exported.folder)
    assert manifest.engine_arguments == {"dtype": "float32", "max_model_len": 1024}
    assert manifest.id == f"{Path(original.source).name}-{manifest.content_digest}"
    assert manifest.created_by.endswith("(converted from video-llava-export 0.1.0)")
    for name in ("source", "tokens_per_video", "video_token_id", "dtypes"):
        assert getattr(manifest, name) == getattr(original, name)


def test_damaged_repository_is_refused(old, tmp_path):
    (old / "vicuna/1/weights/tokenizer.json").write_text("{}", encoding="utf-8")
    with pytest.raises(ModelFolderError, match=r"old is damaged:\n  .*tokenizer\.json has 2 bytes"):
        convert(old, tmp_path / "models")
    assert not (tmp_path / "models").exists()


def test_only_format_1_is_converted(old, exported, tmp_path):
    with pytest.raises(ModelFolderError, match=r"holds no model repository of format 1 \(.*vicuna"):
        convert(exported.folder, tmp_path)
    shutil.copy(exported.folder / "manifest.json", old)
    with pytest.raises(ModelFolderError, match="has format 2; only format 1 is converted"):
        convert(old, tmp_path)
