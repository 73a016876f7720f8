import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from video_llava_export import repository as repository_module
from video_llava_export.errors import RepositoryError
from video_llava_export.repository import (
    check_space,
    find_skeleton,
    install,
    stage_files,
    stage_vllm_arguments,
    staging,
    workspace_of,
)

MODEL = {
    "manifest.json": "{}",
    "video_encoder/1/model.onnx": "graph",
    "video_encoder/1/model.onnx.data": "weights",
    "vicuna/1/weights/config.json": "{}",
    "vicuna/1/weights/model.safetensors": "tensors",
}


def write_files(folder, files, suffix=""):
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text + suffix, encoding="utf-8")
    return folder


def test_skeleton_is_copied_without_what_an_export_left_in_it(tmp_path, read_files):
    generated = [*MODEL, "intake/1/__pycache__/model.pyc", "video_encoder/1/model.plan", "vicuna/1/weights/deep/file"]
    kept = ["intake/config.pbtxt", "intake/1/.gitkeep", "vicuna/1/model.json", "video_encoder/configs/tensorrt.pbtxt"]
    skeleton = write_files(tmp_path / "skeleton", dict.fromkeys([*generated, *kept], "text"))
    stage_files(skeleton, tmp_path / "repository", tmp_path / "staged")
    assert sorted(read_files(tmp_path / "staged")) == sorted(kept)


def test_the_repositorys_own_files_come_along(tmp_path, read_files):
    skeleton = write_files(tmp_path / "skeleton", {"a/config.pbtxt": "ours", "b/config.pbtxt": "ours"})
    theirs = {"a/config.pbtxt": "theirs", "lora/adapter.bin": "theirs"}
    repository = write_files(tmp_path / "repository", {**MODEL, **theirs})
    (repository / "c/1").mkdir(parents=True)
    (repository / "link").symlink_to("a/config.pbtxt")
    stage_files(skeleton, repository, tmp_path / "staged")
    assert read_files(tmp_path / "staged") == {
        "a/config.pbtxt": b"theirs",
        "b/config.pbtxt": b"ours",
        "lora/adapter.bin": b"theirs",
        "link": b"theirs",
    }
    assert (tmp_path / "staged/c/1").is_dir()
    assert (tmp_path / "staged/link").is_symlink()


def test_code_of_another_release_is_left_out_and_named(tmp_path, read_files):
    ours = {"a/1/model.py": "new", "a/1/same.py": "same", "a/config.pbtxt": "new", "vicuna/1/model.json": "{}"}
    theirs = {"a/1/model.py": "old", "a/1/gone.py": "old", "a/1/same.py": "same", "a/config.pbtxt": "edited"}
    own = {"lora/1/model.py": "own", "vicuna/1/model.json": '{"seed": 1}'}
    skeleton = write_files(tmp_path / "skeleton", ours)
    repository = write_files(tmp_path / "repository", {**theirs, **own})
    lines = []
    stage_files(skeleton, repository, tmp_path / "staged", report=lines.append)
    staged = {**ours, **own, "a/config.pbtxt": "edited"}
    assert read_files(tmp_path / "staged") == {name: text.encode() for name, text in staged.items()}
    assert lines == [
        "left out a/1/gone.py: not this release's code",
        "left out a/1/model.py: not this release's code",
        "kept a/config.pbtxt, which differs from this release's: see whether your changes still fit it",
    ]


def test_skeleton_may_be_the_repository_itself(skeleton, tmp_path, read_files):
    stage_files(skeleton, skeleton, tmp_path / "staged")
    assert read_files(tmp_path / "staged") == read_files(skeleton)


def test_a_plan_of_the_old_model_is_left_out_and_named(tmp_path):
    repository = write_files(tmp_path / "repository", {"video_encoder/1/model.plan": "old"})
    lines = []
    stage_files(tmp_path / "none", repository, tmp_path / "staged", report=lines.append)
    assert lines == ["left out video_encoder/1/model.plan: built from the old model; deploy/tensorrt builds it anew"]
    assert not list((tmp_path / "staged").rglob("*.plan"))


def test_skeleton_of_this_checkout_is_found():
    assert find_skeleton() == Path(__file__).parents[2] / "model_repository"


def test_vllm_arguments_are_merged(tmp_path):
    write_files(tmp_path, {"vicuna/1/model.json": '{"model": "weights", "dtype": "auto"}'})
    stage_vllm_arguments({"dtype": "float32", "seed": 1}, tmp_path)
    merged = json.loads((tmp_path / "vicuna/1/model.json").read_text(encoding="utf-8"))
    assert merged == {"model": "weights", "dtype": "float32", "seed": 1}


def test_vllm_arguments_need_a_file(tmp_path):
    with pytest.raises(RepositoryError, match=r"has no vicuna/1/model\.json to merge"):
        stage_vllm_arguments({"seed": 1}, tmp_path)


def refuse_to_exchange(*_):
    return False


@pytest.fixture(params=["exchange", "two renames"])
def way(request, monkeypatch):
    """The file system of this machine, and one that cannot exchange folders."""
    if request.param != "exchange":
        monkeypatch.setattr(repository_module, "_exchange", refuse_to_exchange)


@pytest.mark.usefixtures("way")
def test_the_staged_repository_takes_the_olds_place(tmp_path, read_files):
    repository = write_files(tmp_path / "repository", {**MODEL, "vicuna/1/weights/old": ""}, "old")
    with staging(repository) as staged:
        install(write_files(staged, MODEL), repository)
    assert read_files(repository) == {name: text.encode() for name, text in MODEL.items()}
    assert list(tmp_path.iterdir()) == [repository]


def test_exchange_is_one_step_on_this_file_system(tmp_path, monkeypatch):
    repository = write_files(tmp_path / "repository", MODEL, "old")
    with staging(repository) as staged:
        write_files(staged, MODEL, "new")
        monkeypatch.setattr(Path, "rename", None)
        install(staged, repository)
        assert (staged / "manifest.json").read_text() == "{}old"
    assert (repository / "manifest.json").read_text() == "{}new"


def test_a_new_repository_needs_no_old_one(tmp_path, read_files):
    with staging(tmp_path / "deep/repository") as staged:
        install(write_files(staged, MODEL), tmp_path / "deep/repository")
    assert sorted(read_files(tmp_path / "deep")) == sorted(f"repository/{name}" for name in MODEL)


def test_failed_staging_leaves_nothing(tmp_path):
    with pytest.raises(KeyboardInterrupt, match="here"), staging(tmp_path / "repository"):
        raise KeyboardInterrupt("here")
    assert not list(tmp_path.iterdir())


def test_what_a_killed_export_left_is_removed(tmp_path):
    write_files(workspace_of(tmp_path / "repository"), {"new/manifest.json": "half"})
    lines = []
    with staging(tmp_path / "repository", report=lines.append) as staged:
        assert not list(staged.iterdir())
    assert lines == ["removed what an interrupted export had left"]
    assert not list(tmp_path.iterdir())


def test_a_repository_that_was_on_its_way_out_comes_back(tmp_path, read_files):
    write_files(workspace_of(tmp_path / "repository"), {"old/manifest.json": "old", "new/manifest.json": "new"})
    lines = []
    with staging(tmp_path / "repository", report=lines.append):
        assert read_files(tmp_path / "repository") == {"manifest.json": b"old"}
    assert lines[0].startswith(f"put back {tmp_path / 'repository'}")


def test_two_exports_at_a_time_are_refused(tmp_path):
    script = (
        "import sys; from pathlib import Path; from video_llava_export.errors import RepositoryError\n"
        "from video_llava_export.repository import staging\n"
        "try:\n    staging(Path(sys.argv[1])).__enter__()\n"
        "except RepositoryError as exc:\n    print(exc)"
    )
    with staging(tmp_path / "repository"):
        command = [sys.executable, "-c", script, tmp_path / "repository"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout == f"another export into {tmp_path / 'repository'} is running; wait for its end\n"


def test_repository_that_is_a_file_is_refused(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(RepositoryError, match="file is a file; give a folder"), staging(tmp_path / "file"):
        pass


def test_mount_point_is_refused(monkeypatch, tmp_path):
    monkeypatch.setattr(Path, "is_mount", lambda _: True)
    with pytest.raises(RepositoryError, match=r"is a mount point, .* such as .*/models"), staging(tmp_path):
        pass


def test_a_link_to_a_repository_stays_a_link(tmp_path):
    write_files(tmp_path / "real", MODEL, "old")
    (tmp_path / "link").symlink_to("real")
    with staging(tmp_path / "link") as staged:
        install(write_files(staged, MODEL, "new"), tmp_path / "link")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real/manifest.json").read_text() == "{}new"


def test_a_folder_that_cannot_be_renamed_is_named(tmp_path, monkeypatch):
    def fail(*_):
        raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))

    monkeypatch.setattr(repository_module, "_exchange", fail)
    repository = write_files(tmp_path / "repository", MODEL)
    with (
        staging(repository) as staged,
        pytest.raises(RepositoryError, match=r"cannot be renamed \(Invalid cross-device link\); give a folder"),
    ):
        install(staged, repository)


def test_full_disk_is_told_before_anything_is_written(tmp_path):
    with pytest.raises(RepositoryError, match=r"needs 10,000,000\.0 GB beside the old model, .* GB free; make room"):
        check_space(tmp_path, 10**16)
