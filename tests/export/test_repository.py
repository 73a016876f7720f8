import json
from pathlib import Path

import pytest
from video_llava_export.errors import RepositoryError
from video_llava_export.repository import (
    find_skeleton,
    install,
    stage_skeleton,
    stage_vllm_arguments,
    staging,
)

MODEL = {
    "manifest.json": "{}",
    "video_encoder/1/model.onnx": "graph",
    "vicuna/1/weights/config.json": "{}",
    "vicuna/1/weights/model.safetensors": "tensors",
    "vicuna/1/model.json": "{}",
}


def write_files(folder, files, suffix=""):
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text + suffix, encoding="utf-8")
    return folder


def test_skeleton_is_copied_without_what_an_export_left_in_it(tmp_path, read_files):
    generated = [*MODEL, "intake/1/__pycache__/model.pyc", ".export-x/file", "vicuna/1/weights/deep/file"]
    kept = ["intake/config.pbtxt", "intake/1/.gitkeep", "vicuna/1/model.json"]
    skeleton = write_files(tmp_path / "skeleton", dict.fromkeys([*generated, *kept], "text"))
    stage_skeleton(skeleton, tmp_path / "repository", tmp_path / "staged")
    assert sorted(read_files(tmp_path / "staged")) == sorted(kept)


def test_edited_config_files_are_kept(tmp_path, read_files):
    skeleton = write_files(tmp_path / "skeleton", {"a/config.pbtxt": "ours", "b/config.pbtxt": "ours"})
    repository = write_files(tmp_path / "repository", {"a/config.pbtxt": "theirs"})
    stage_skeleton(skeleton, repository, tmp_path / "staged")
    assert read_files(tmp_path / "staged") == {"b/config.pbtxt": b"ours"}


def test_skeleton_may_be_the_repository_itself(skeleton, tmp_path):
    stage_skeleton(skeleton, skeleton, tmp_path / "staged")
    assert not (tmp_path / "staged").exists()


def test_skeleton_of_this_checkout_is_found():
    assert find_skeleton() == Path(__file__).parents[2] / "model_repository"


@pytest.mark.parametrize("where", ["repository", "staged"])
def test_vllm_arguments_are_merged(tmp_path, where):
    write_files(tmp_path / where, {"vicuna/1/model.json": '{"model": "weights", "dtype": "auto"}'})
    stage_vllm_arguments({"dtype": "float32", "seed": 1}, tmp_path / "repository", tmp_path / "staged")
    merged = json.loads((tmp_path / "staged/vicuna/1/model.json").read_text(encoding="utf-8"))
    assert merged == {"model": "weights", "dtype": "float32", "seed": 1}


def test_vllm_arguments_need_a_file(tmp_path):
    with pytest.raises(RepositoryError, match=r"has no vicuna/1/model\.json to merge"):
        stage_vllm_arguments({"seed": 1}, tmp_path / "repository", tmp_path / "staged")


def test_install_replaces_the_old_model(tmp_path, read_files):
    repository = write_files(tmp_path / "repository", {**MODEL, "vicuna/1/weights/old": "", "other": ""}, "old")
    install(write_files(tmp_path / "staged", MODEL), repository)
    assert read_files(repository) == {name: text.encode() for name, text in MODEL.items()} | {"other": b"old"}


@pytest.mark.parametrize("old", [{}, MODEL], ids=["new repository", "old model"])
@pytest.mark.parametrize("failing_move", range(8))
def test_install_that_fails_puts_everything_back(tmp_path, monkeypatch, read_files, old, failing_move):
    repository = write_files(tmp_path / "repository", {**old, "other": ""}, "old")
    staged = write_files(tmp_path / "staged", MODEL)
    before, replace, moves = read_files(repository), Path.replace, iter(range(99))

    def fail_once(path, target):
        if next(moves) == failing_move:
            raise KeyboardInterrupt("here")
        return replace(path, target)

    monkeypatch.setattr(Path, "replace", fail_once)
    if not old and failing_move >= 4:
        install(staged, repository)
        return
    with pytest.raises(KeyboardInterrupt, match="here"):
        install(staged, repository)
    assert read_files(repository) == before


def test_manifest_moves_first_out_and_last_in(tmp_path, monkeypatch):
    repository = write_files(tmp_path / "repository", MODEL, "old")
    staged = write_files(tmp_path / "staged", MODEL)
    replace, moves = Path.replace, []

    def record(path, target):
        moves.append((path, target))
        return replace(path, target)

    monkeypatch.setattr(Path, "replace", record)
    install(staged, repository)
    assert moves[0][0] == repository / "manifest.json"
    assert moves[-1] == (staged / "manifest.json", repository / "manifest.json")


def test_staging_goes_and_the_repository_stays(tmp_path):
    with staging(tmp_path / "repository") as staged:
        assert staged.parent == tmp_path / "repository"
    assert list((tmp_path / "repository").iterdir()) == []


def test_failed_staging_removes_a_repository_that_it_made(tmp_path):
    with pytest.raises(KeyboardInterrupt, match="here"), staging(tmp_path / "repository"):
        raise KeyboardInterrupt("here")
    assert not (tmp_path / "repository").exists()


def test_repository_that_is_a_file_is_refused(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(RepositoryError, match="file is a file; give a folder"), staging(tmp_path / "file"):
        pass
