import json
import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file
from video_llava_export.check import check
from video_llava_export.errors import RepositoryError
from video_llava_export.exporter import ExportOptions, export
from video_llava_export.files import FileFacts
from video_llava_export.repository import workspace_of

WEIGHTS = "vicuna/1/weights"


@pytest.fixture
def models(whole, tmp_path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "models"))


def edit_json(path: Path, **values) -> None:
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | values), encoding="utf-8")


def accept(models: Path, name: str) -> None:
    """Write a changed file's facts into the manifest, as if the export had made it."""
    path = models / "manifest.json"
    manifest = json.loads(path.read_text(encoding="utf-8"))
    facts = FileFacts.of(models / name)
    manifest["files"][name] = {"size_bytes": facts.size_bytes, "sha256": facts.sha256}
    path.write_text(json.dumps(manifest), encoding="utf-8")


def test_a_whole_repository_says_which_model_it_is(whole, small_checkpoint):
    checked = check(whole)
    assert checked.problems == ()
    assert len(checked.model_id) == 12
    assert f"model {checked.model_id} of {small_checkpoint}, 9 files" in checked.summary


def test_missing_file_is_named(models):
    (models / WEIGHTS / "tokenizer.json").unlink()
    assert check(models).problems == (f"{models / WEIGHTS / 'tokenizer.json'} is missing",)


def test_cut_file_is_named(models):
    path = models / "video_encoder/1/model.onnx.data"
    path.write_bytes(path.read_bytes()[:1000])
    (problem,) = check(models).problems
    assert problem.startswith(f"{path} has 1000 bytes, the export wrote ")


def test_changed_byte_is_found_by_its_hash_only(models):
    path = models / WEIGHTS / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    assert check(models).problems == (f"{path} has other content than the export wrote (SHA-256)",)
    assert check(models, hashes=False).problems == ()


def test_stray_shard_is_named(models):
    (models / WEIGHTS / "model-00001-of-00002.safetensors").touch()
    (problem,) = check(models).problems
    assert problem.endswith("model-00001-of-00002.safetensors is not of this export; remove it")


def test_tensor_of_another_shape_is_named(models):
    path = models / WEIGHTS / "model.safetensors"
    tensors = load_file(path)
    tensors["model.norm.weight"] = tensors["model.norm.weight"][:64].clone()
    del tensors["lm_head.weight"]
    save_file(tensors, path)
    accept(models, f"{WEIGHTS}/model.safetensors")
    norm, head = sorted(check(models).problems, reverse=True)
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
def test_number_that_does_not_agree_is_named(models, values, message):
    edit_json(models / "manifest.json", **values)
    problems = check(models).problems
    with pytest.raises(RepositoryError, match=message):
        raise RepositoryError("\n".join(problems))


def test_engine_arguments_are_held_against_the_model(models):
    edit_json(models / "vicuna/1/model.json", max_model_len=4096, model="elsewhere")
    model, length = check(models).problems
    assert model.endswith("names the model 'elsewhere', it must be 'weights'")
    assert length.endswith("has max_model_len 4096, the model has 2048 positions")


def test_configurations_are_read(models):
    (models / "intake/config.pbtxt").write_text('name: "other"\n', encoding="utf-8")
    (models / "relay/config.pbtxt").write_text("nonsense: 1\n", encoding="utf-8")
    path = models / "video_encoder/config.pbtxt"
    text = path.read_text(encoding="utf-8")
    dims = 'input [ { name: "frames", data_type: TYPE_UINT8, dims: [ -1, 224, 224, 3 ] } ]'
    path.write_text(f"{text}\n{dims}\n", encoding="utf-8")
    problems = "\n".join(check(models).problems)
    assert "intake/config.pbtxt names the model 'other', its folder 'intake'" in problems
    assert "relay/config.pbtxt is no model configuration" in problems
    assert "frames ends in [224, 224, 3], the model in [56, 56, 3]" in problems


def test_a_folder_without_a_model_is_refused(tmp_path):
    with pytest.raises(RepositoryError, match=r"holds no exported model: .* has no manifest\.json"):
        check(tmp_path)


def test_another_format_is_refused(models):
    edit_json(models / "manifest.json", format=2)
    with pytest.raises(RepositoryError, match="has format 2, supported is 1; export again"):
        check(models)


def test_a_repository_that_was_moved_away_is_told(tmp_path):
    (workspace_of(tmp_path / "models") / "old").mkdir(parents=True)
    with pytest.raises(RepositoryError, match="was moved away by an export that was interrupted; export again"):
        check(tmp_path / "models")


@pytest.mark.usefixtures("fast_graphs")
def test_another_model_has_another_id(editable, skeleton, tmp_path):
    ids = []
    for name in ("one", "other"):
        editable.edit("generation_config.json", max_length=len(name))
        export(editable.open(), tmp_path / name, options=ExportOptions(skeleton=skeleton))
        manifest = json.loads((tmp_path / name / "manifest.json").read_text(encoding="utf-8"))
        ids.append(check_id(tmp_path / name, manifest))
    assert ids[0] != ids[1]


def check_id(folder, manifest):
    from video_llava_export.check import Checked

    return Checked(folder, manifest, ()).model_id
