from dataclasses import replace

import pytest
from video_llava_export.errors import OptionError, TargetError
from video_llava_export.model_folder import building, check_id, check_space, place, with_id
from video_llava_server.manifest import FileFacts, Manifest


@pytest.fixture(scope="module")
def manifest(exported) -> Manifest:
    """Of a model that has one file of four bytes."""
    files = {"weights": FileFacts(size_bytes=4, sha256="0" * 64)}
    return replace(Manifest.read(exported.folder), id="model", files=files)


def put(into, manifest, report=lambda _: None):
    with building(into, report=report) as folder:
        (folder / "weights").write_bytes(b"data")
        return place(folder, into, manifest, report=report)


def test_a_built_model_gets_its_name_and_nothing_else_stays(tmp_path, manifest):
    folder = put(tmp_path / "deep/models", manifest)
    assert folder == tmp_path / "deep/models/model"
    assert Manifest.read(folder) == manifest
    assert list((tmp_path / "deep/models").iterdir()) == [folder]


def test_the_same_model_again_is_told_and_left_alone(tmp_path, manifest, read_files):
    folder, lines = put(tmp_path, manifest), []
    before, inode = read_files(tmp_path), folder.stat().st_ino
    assert put(tmp_path, replace(manifest, created_by="a later release"), lines.append) == folder
    assert lines == [f"{folder} holds this model already and stays as it is"]
    assert (read_files(tmp_path), folder.stat().st_ino) == (before, inode)


@pytest.mark.parametrize("change", [{"files": {}}, {"engine_arguments": {"seed": 1}}, {"num_frames": 9}], ids=str)
def test_another_model_of_the_same_name_is_refused(tmp_path, manifest, read_files, change):
    put(tmp_path, manifest)
    before = read_files(tmp_path)
    with pytest.raises(TargetError, match=r"model holds another model \(of .* take another --id"):
        put(tmp_path, replace(manifest, **change))
    assert read_files(tmp_path) == before


@pytest.mark.parametrize("there", ["a file", "a folder of something else", "a damaged model"])
def test_what_is_no_model_is_never_replaced(tmp_path, manifest, read_files, there):
    target = tmp_path / "model"
    if there == "a file":
        target.write_text("mine", encoding="utf-8")
    elif there == "a damaged model":
        (put(tmp_path, manifest) / "weights").write_bytes(b"cut")
    else:
        target.mkdir()
        (target / "mine").touch()
    before = read_files(tmp_path)
    with pytest.raises(TargetError, match=r"model exists, but is not a whole model \(.*remove it or take another --id"):
        put(tmp_path, manifest)
    assert read_files(tmp_path) == before


def test_a_link_to_the_same_model_is_taken_for_it(tmp_path, manifest):
    put(tmp_path / "other", manifest)
    (tmp_path / "model").symlink_to(tmp_path / "other/model")
    assert put(tmp_path, manifest) == tmp_path / "model"
    assert (tmp_path / "model").is_symlink()


def test_failed_building_leaves_nothing(tmp_path):
    with pytest.raises(KeyboardInterrupt, match="here"), building(tmp_path):
        raise KeyboardInterrupt("here")
    assert not list(tmp_path.iterdir())


def test_what_a_killed_export_left_is_removed_and_a_running_one_is_not(tmp_path):
    (tmp_path / ".export-left").mkdir()
    (tmp_path / ".export-left/half").touch()
    lines = []
    with building(tmp_path) as running:
        (tmp_path / ".export-later").mkdir()
        with building(tmp_path, report=lines.append) as beside:
            assert sorted(tmp_path.iterdir()) == sorted([running, beside])
    assert lines == ["removed .export-later, left by an export that was killed"]
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("model_id", ["", ".hidden", "a/b", "..", "a b", "a" * 129])
def test_id_that_names_no_folder_is_refused(model_id):
    with pytest.raises(OptionError, match="cannot name a folder"):
        check_id(model_id)


@pytest.mark.parametrize(
    ("source", "name"),
    [("LanguageBind/Video-LLaVA-7B-hf", "Video-LLaVA-7B-hf"), ("/a/my model!", "my-model"), ("/", "model")],
)
def test_default_id_is_the_checkpoints_name_and_its_content(manifest, source, name):
    model_id = with_id(replace(manifest, id="", source=source)).id
    assert model_id == f"{name}-{manifest.content_digest}"
    check_id(model_id)


def test_full_disk_is_told_before_anything_is_written(tmp_path):
    with pytest.raises(TargetError, match=r"needs 10,000,000\.0 GB, .* GB free; make room"):
        check_space(tmp_path, 10**16)
