import json
import shutil

import pytest
import torch
from huggingface_hub.errors import LocalEntryNotFoundError
from safetensors.torch import load_file
from video_llava_export import checkpoint as checkpoint_module
from video_llava_export.checkpoint import open_checkpoint
from video_llava_export.errors import CheckpointError


def test_facts_come_from_the_config(small_checkpoint):
    config = open_checkpoint(str(small_checkpoint)).config
    assert (config.image_size, config.num_frames, config.feature_layers) == (56, 8, (2,))
    assert (config.tokens_per_frame, config.tokens_per_image) == (17, 16)


def test_full_strategy_keeps_the_class_token_of_images(editable):
    editable.edit("config.json", vision_feature_select_strategy="full")
    config = editable.open().config
    assert (config.tokens_per_frame, config.tokens_per_image) == (17, 17)


def test_another_model_is_named(editable):
    editable.edit("config.json", model_type="llava")
    with pytest.raises(CheckpointError, match="is a checkpoint of model_type 'llava', not 'video_llava'"):
        editable.open()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"vision_feature_select_strategy": "cls"}, "vision_feature_select_strategy is 'cls'; supported are 'default'"),
        ({"image_token_index": None}, "image_token_index None; it must be the id of <image>"),
        ({"video_token_index": None}, "video_token_index None; it must be the id of <video>"),
        ({"vision_feature_layer": -5}, "vision_feature_layer is -5; a tower of 3 layers has -4 to 3"),
        ({"vision_feature_layer": []}, r"vision_feature_layer is \[\]"),
        ({"video_seq_length": 137}, "video_seq_length is 137, no multiple of the 17 tokens"),
    ],
    ids=lambda value: next(iter(value), "") if isinstance(value, dict) else "",
)
def test_config_that_cannot_be_exported_is_refused(editable, values, message):
    editable.edit("config.json", **values)
    with pytest.raises(CheckpointError, match=message):
        editable.open()


def test_other_language_models_are_refused(editable):
    editable.edit_part("text_config", model_type="mistral")
    with pytest.raises(CheckpointError, match="text_config is a MistralConfig; supported is llama"):
        editable.open()


def test_newer_spelling_of_the_placeholder_ids_is_read(editable):
    editable.edit("config.json", image_token_index=None, image_token_id=1000)
    assert editable.open().config.image_token_id == 1000


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"size": {"shortest_edge": 64}}, "shortest edge to 64 and crops to 56x56"),
        ({"crop_size": {"height": 56, "width": 64}}, "shortest edge to 56 and crops to 56x64"),
        ({"size": 112, "crop_size": 112}, r"crops to 112, vision_config\.image_size is 56"),
        ({"size": {"height": 56, "width": 56}}, "size {'height': 56, 'width': 56}; expected an object with shortest_"),
        ({"do_rescale": False}, "do_rescale false"),
        ({"do_normalize": False}, "do_normalize false"),
        ({"do_resize": False}, "do_resize false"),
        ({"do_center_crop": False}, "do_center_crop false"),
        ({"resample": 2}, "resample 2; clients resize by 3, bicubic"),
        ({"image_mean": [0.5]}, r"image_mean \[0\.5\]; expected three numbers"),
    ],
    ids=lambda value: next(iter(value), "") if isinstance(value, dict) else "",
)
def test_preprocessor_that_the_server_does_not_do_is_refused(editable, values, message):
    editable.edit("preprocessor_config.json", **values)
    with pytest.raises(CheckpointError, match=message):
        editable.open()


@pytest.fixture
def preprocessors(editable):
    """Write files of one image and one video preprocessor, each with some values of its own."""
    path = editable.folder / "preprocessor_config.json"
    settings = json.loads(path.read_text(encoding="utf-8"))
    path.unlink()

    def write(**files):
        for name, own in files.items():
            if name == "processor":
                values = {part: settings | values for part, values in own.items()}
            else:
                values = settings | own
            (editable.folder / f"{name}_config.json").write_text(json.dumps(values), encoding="utf-8")
        return editable

    return write


@pytest.mark.parametrize(
    "files",
    [
        {"processor": {"image_processor": {}}},
        {"processor": {"image_processor": {}, "video_processor": {}}},
        {"processor": {"image_processor": {}, "video_processor": {"image_processor_type": None}}, "preprocessor": {}},
        {"preprocessor": {}, "video_preprocessor": {"video_processor_type": "VideoLlavaVideoProcessor"}},
    ],
)
def test_preprocessors_that_agree_are_one(preprocessors, small_checkpoint, files):
    assert preprocessors(**files).open().preprocessing == open_checkpoint(str(small_checkpoint)).preprocessing


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (
            {"processor": {"image_processor": {"image_std": [1, 1, 1]}}, "preprocessor": {}},
            r"one: std is \(1\.0, .*\) of image_processor in processor_config\.json and .* of preprocessor_config",
        ),
        (
            {"processor": {"image_processor": {}, "video_processor": {"rescale_factor": 1}}},
            r"rescale_factor is 0\.0039\d* of image_.* and 1\.0 of video_processor in",
        ),
        (
            {"preprocessor": {}, "video_preprocessor": {"image_mean": [0, 0, 0]}},
            r"mean is .* of video_preprocessor_config",
        ),
        ({"preprocessor": {}, "video_preprocessor": {"do_normalize": False}}, "do_normalize false"),
        ({"video_preprocessor": {}}, r"has neither preprocessor_config\.json nor"),
    ],
)
def test_preprocessors_that_differ_are_refused(preprocessors, files, message):
    with pytest.raises(CheckpointError, match=message):
        preprocessors(**files).open()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("config.json", r"has no config\.json; download"),
        ("preprocessor_config.json", r"has neither preprocessor_config\.json nor processor_config\.json"),
        ("model.safetensors", r"holds neither model\.safetensors nor model\.safetensors\.index\.json"),
    ],
)
def test_missing_file_is_named(editable, name, message):
    editable.remove(name)
    with pytest.raises(CheckpointError, match=message):
        editable.open()


def test_missing_shard_is_named(editable):
    editable.rename_tensors({}, num_shards=3)
    editable.remove("model-00002-of-00003.safetensors")
    with pytest.raises(CheckpointError, match=r"lacks 1 of 3 shards \(model-00002-of-00003\.safetensors\)"):
        editable.open()


def test_damaged_shard_is_named(editable):
    path = editable.folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:100_000])
    with pytest.raises(CheckpointError, match=r"model\.safetensors is damaged \(.*\); download it again"):
        editable.open()


@pytest.mark.parametrize("content", [b"", b"\0" * 4, b"<html>not found</html>"])
def test_file_that_is_no_safetensors_is_named(editable, content):
    (editable.folder / "model.safetensors").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"model\.safetensors is damaged \(.*\); download it again"):
        editable.open()


@pytest.mark.parametrize(
    ("content", "message"), [("{", r"index\.json is not JSON"), ("{}", r"index\.json has no weight_map; download it")]
)
def test_damaged_index_is_named(editable, content, message):
    editable.remove("model.safetensors")
    (editable.folder / "model.safetensors.index.json").write_text(content, encoding="utf-8")
    with pytest.raises(CheckpointError, match=message):
        editable.open()


def test_config_that_is_no_json_is_named(editable):
    (editable.folder / "config.json").write_text("{", encoding="utf-8")
    with pytest.raises(CheckpointError, match=r"config\.json is not JSON \(Expecting"):
        editable.open()


def test_tensor_in_two_layouts_is_refused(editable):
    tensors = editable.tensors()
    tensors["lm_head.weight"] = tensors["language_model.lm_head.weight"].clone()
    editable.replace_tensors(tensors)
    with pytest.raises(CheckpointError, match=r"holds language_model\.lm_head\.weight twice"):
        editable.open()


@pytest.mark.parametrize("source", ["./absent", "/absent/folder", "absent", "a/b/c"])
def test_absent_folder_is_refused(source):
    with pytest.raises(CheckpointError, match=f"{source} is no folder, and no hub repository"):
        open_checkpoint(source)


def test_revision_of_a_folder_is_refused(small_checkpoint):
    with pytest.raises(CheckpointError, match="--revision main is for the hub"):
        open_checkpoint(str(small_checkpoint), revision="main")


@pytest.mark.parametrize("has_safetensors", [True, False])
def test_hub_is_asked_for_pickles_only_where_there_is_nothing_else(
    small_checkpoint, tmp_path, monkeypatch, has_safetensors
):
    asked, folder = [], tmp_path / "0123abc"

    def snapshot_download(name, **options):
        asked.append((name, options["revision"], options["allow_patterns"]))
        if not folder.exists():
            shutil.copytree(small_checkpoint, folder)
            if not has_safetensors:
                torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
                (folder / "model.safetensors").unlink()
        return folder

    monkeypatch.setattr(checkpoint_module, "snapshot_download", snapshot_download)
    opened = open_checkpoint("someone/model", revision="v1")
    patterns = [["*.safetensors", "*.json", "tokenizer.model"], *([] if has_safetensors else [["pytorch_model*.bin"]])]
    assert asked == [("someone/model", "v1", each) for each in patterns]
    assert (opened.source, opened.revision) == ("someone/model", "0123abc")


def test_failed_download_says_what_to_do(monkeypatch):
    def snapshot_download(*_, **__):
        raise LocalEntryNotFoundError("no network\nand a long story")

    monkeypatch.setattr(checkpoint_module, "snapshot_download", snapshot_download)
    with pytest.raises(CheckpointError, match=r"did not give a/b at revision v1 \(no network\); check the name"):
        open_checkpoint("a/b", revision="v1")
