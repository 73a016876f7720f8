import json
import re
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file
from video_llava_export.check import check
from video_llava_export.files import facts_of
from video_llava_server.manifest import ModelFolderError


def edit_json(path: Path, **values) -> None:
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | values), encoding="utf-8")


def accept(model: Path, name: str) -> None:
    """Write a changed file's facts into the manifest, as if the export had made it."""
    path = model / "manifest.json"
    manifest = json.loads(path.read_text(encoding="utf-8"))
    manifest["files"][name] = vars(facts_of(model / name))
    path.write_text(json.dumps(manifest), encoding="utf-8")


def test_a_whole_folder_says_which_model_it_is(exported, small_checkpoint):
    checked = check(exported.folder)
    assert checked.problems == ()
    assert f"model {exported.folder.name} of {small_checkpoint}, content " in checked.summary
    assert ", 9 files, 0.00 GB (video_encoder float32" in checked.summary


def test_missing_file_is_named(model):
    (model / "language_model/tokenizer.json").unlink()
    assert check(model).problems == (f"{model / 'language_model/tokenizer.json'} is missing",)


def test_cut_file_is_named(model):
    path = model / "encoders/video_encoder.onnx.data"
    path.write_bytes(path.read_bytes()[:1000])
    (problem,) = check(model).problems
    assert problem.startswith(f"{path} has 1000 bytes, the export wrote ")


def test_changed_byte_is_found_by_its_hash_only(model):
    path = model / "language_model/model.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    assert check(model).problems == (f"{path} has other content than the export wrote (SHA-256)",)
    assert check(model, hashes=False).problems == ()


def test_stray_shard_is_named(model):
    (model / "language_model/model-00001-of-00002.safetensors").touch()
    (problem,) = check(model).problems
    assert problem.endswith("model-00001-of-00002.safetensors is not of this export; remove it")


def test_tensor_of_another_shape_is_named(model):
    path = model / "language_model/model.safetensors"
    tensors = load_file(path)
    tensors["model.norm.weight"] = tensors["model.norm.weight"][:64].clone()
    del tensors["lm_head.weight"]
    save_file(tensors, path)
    accept(model, "language_model/model.safetensors")
    norm, head = sorted(check(model).problems, reverse=True)
    assert "lacks the tensor lm_head.weight" in norm + head
    assert "model.norm.weight has shape (64,), config.json asks for (128,)" in norm + head


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"image_size": 224}, r"takes frames .*'batch', 'frames', 56, 56, 3\], the manifest says .* 224, 224, 3"),
        ({"hidden_size": 256}, r"config\.json has hidden_size 128, the manifest 256"),
        ({"tokens_per_frame": 257}, "makes 17 tokens of a frame, the manifest says 257"),
        ({"video_token_id": 7}, "gives <video> the id 1001, the manifest 7"),
    ],
    ids=str,
)
def test_number_that_does_not_agree_is_named(model, values, message):
    edit_json(model / "manifest.json", **values)
    problems = check(model).problems
    assert re.search(message, "\n".join(problems))


def test_context_longer_than_the_models_is_named(model):
    edit_json(model / "manifest.json", engine_arguments={"max_model_len": 4096})
    (problem,) = check(model).problems
    assert problem.endswith("has max_model_len 4096, the model has 2048 positions")


def test_a_folder_without_a_model_is_refused(tmp_path):
    with pytest.raises(ModelFolderError, match=r"holds no exported model \(No such file or directory: "):
        check(tmp_path)


def test_another_format_is_refused(model):
    edit_json(model / "manifest.json", format=1)
    with pytest.raises(ModelFolderError, match=r"has format 1, .* video-llava-export convert"):
        check(model)
