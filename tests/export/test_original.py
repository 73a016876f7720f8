"""Checkpoints of the original layout, compared with what the original code computes (`support.original_code`)."""

import json
import shutil
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from support.original_code import ANSWERS, PICTURES, arrays, picture
from video_llava_client import Conventions, build_prompt
from video_llava_export.check import check
from video_llava_export.checkpoint import open_checkpoint
from video_llava_export.comparison import Difference
from video_llava_export.errors import CheckpointError
from video_llava_export.exporter import export
from video_llava_export.original import SYSTEM
from video_llava_export.original_reference import original_pixels
from video_llava_export.random_checkpoint import make_original_checkpoint
from video_llava_export.reference import reference_features
from video_llava_export.tokens import load_tokenizer
from video_llava_server.limits import Limits
from video_llava_server.manifest import Manifest, encoder_path

from .conftest import EditableCheckpoint

ROWS = {"video": (100, (1, 8, 224, 224, 3)), "image": (101, (1, 1, 224, 224, 3))}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Made once, to be read only."""
    folder = tmp_path_factory.mktemp("original")
    make_original_checkpoint(folder)
    return folder


@pytest.fixture(scope="module")
def checkpoint(folder):
    return open_checkpoint(str(folder))


@pytest.fixture(scope="module")
def exported(checkpoint, tmp_path_factory) -> Path:
    return export(checkpoint, tmp_path_factory.mktemp("exported")).folder


@pytest.fixture(scope="module")
def sessions(exported):
    return {medium: onnxruntime.InferenceSession(exported / encoder_path(medium)) for medium in ROWS}


@pytest.fixture
def own(folder, tmp_path) -> EditableCheckpoint:
    return EditableCheckpoint(Path(shutil.copytree(folder, tmp_path / "checkpoint")))


def frames_of(medium):
    seed, shape = ROWS[medium]
    return picture(seed, shape[1:] if medium == "video" else shape[2:]).reshape(shape)


def test_the_data_were_made_with_these_weights(checkpoint):
    """If not, another version of torch draws other numbers: make the data anew."""
    names = {
        "model.layers.0.self_attn.q_proj.weight": "language_model.model.layers.0.self_attn.q_proj.weight",
        "lm_head.weight": "language_model.lm_head.weight",
        "model.mm_projector.2.weight": "multi_modal_projector.linear_2.weight",
        "video_tower temporal_attn": "video_tower.encoder.layers.1.temporal_attn.q_proj.weight",
    }
    sums = {name: checkpoint.tensors[own].read().double().abs().sum().item() for name, own in names.items()}
    assert sums == pytest.approx(ANSWERS["weights"], rel=1e-5)


@pytest.mark.parametrize("medium", ROWS)
def test_features_are_those_of_the_original_code(checkpoint, sessions, medium):
    expected = arrays()[f"{medium}_features"][None]
    frames = frames_of(medium)
    (features,) = sessions[medium].run(None, {"frames": frames})
    assert Difference.between("graph", features, expected).relative < 1e-5
    assert Difference.between("reference", reference_features(checkpoint, medium, frames), expected).relative < 1e-5


def test_frames_of_a_video_depend_on_each_other(sessions):
    frames = frames_of("video")
    changed = frames.copy()
    changed[:, 7] = 0
    before, after = (sessions["video"].run(None, {"frames": each})[0] for each in (frames, changed))
    assert abs(before - after)[0, :17].max() > 1e-2


def test_two_videos_do_not(sessions):
    frames = frames_of("video")
    two = np.concatenate([frames, frames[:, ::-1]], axis=1)
    (one,), (both,) = (sessions["video"].run(None, {"frames": each}) for each in (frames, two))
    np.testing.assert_allclose(both[:, :136], one, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("shape", "rows"), [((1, 0), 1), ((2, 5), 1), ((3, 8), 136), ((1, 20), 272)], ids=str)
def test_only_whole_videos_are_read(sessions, shape, rows):
    frames = np.zeros((*shape, 224, 224, 3), np.uint8)
    (features,) = sessions["video"].run(None, {"frames": frames})
    assert features.shape == (shape[0], rows, 128)
    assert features.any() == (rows > 1)


def test_temporal_attention_is_one_operator_a_layer(exported):
    nodes = onnx.load(exported / encoder_path("video"), load_external_data=False).graph.node
    attentions = [node for node in nodes if node.op_type == "Attention"]
    assert [(len(node.input), len(node.output)) for node in attentions] == [(3, 1)] * 4


@pytest.mark.parametrize("name", PICTURES)
@pytest.mark.parametrize("medium", ROWS)
def test_pixels_are_those_of_the_original_code(checkpoint, medium, name):
    seed, size = PICTURES[name]
    pixels = original_pixels(checkpoint, [picture(seed, (*size, 3))], medium)[0, :, ::16, ::16]
    np.testing.assert_allclose(pixels.numpy(), arrays()[f"{medium}_pixels_{name}"], rtol=1e-5, atol=1e-5)


def expand(ids, checkpoint):
    """As the original writes it: -200 for each frame and image."""
    config = checkpoint.config
    counts = {config.video_token_id: config.num_frames, config.image_token_id: 1}
    return [each for token in ids for each in ([-200] * counts[token] if token in counts else [token])]


@pytest.fixture(scope="module")
def tokenizer(folder, checkpoint):
    return load_tokenizer(folder, checkpoint.config)


@pytest.mark.parametrize("case", ANSWERS["cases"], ids=lambda case: case["question"])
def test_prompts_have_the_ids_of_the_original_code(checkpoint, tokenizer, case):
    is_video = len(case["shape"]) == 3
    prompt = build_prompt(case["question"], num_videos=is_video, num_images=not is_video, system=SYSTEM)
    assert expand(tokenizer(prompt)["input_ids"], checkpoint) == case["prompt_ids"]


def test_conversations_and_mixes_have_them_too(checkpoint, tokenizer):
    mixed, turns = ANSWERS["mixed"], ANSWERS["turns"]
    prompt = build_prompt(mixed["question"], num_videos=1, num_images=1, system=SYSTEM)
    assert expand(tokenizer(prompt)["input_ids"], checkpoint) == mixed["prompt_ids"]
    first, second = turns["questions"]
    prompt = build_prompt(second, num_videos=1, turns=[(first, turns["answer"])], system=SYSTEM)
    assert expand(tokenizer(prompt)["input_ids"], checkpoint) == turns["prompt_ids"]


def test_the_tokenizer_is_the_slow_one(tokenizer):
    assert {text: tokenizer(text)["input_ids"] for text in ANSWERS["tokens"]} == ANSWERS["tokens"]


def test_the_export_is_whole_and_says_what_clients_do(exported):
    assert not check(exported).problems
    limits = json.loads(Limits.of(Manifest.read(exported), max_model_len=None).to_json())
    assert limits["tokens_per_frame"] * limits["num_frames"] == 136
    assert Conventions.from_facts(limits) == Conventions(
        sampling="linspace",
        video_resize="bilinear",
        image_resize="bicubic",
        image_padding=(122, 116, 104),
        system=SYSTEM,
    )


def test_images_keep_their_shape_where_the_checkpoint_says_so(own):
    own.edit("config.json", image_aspect_ratio=None)
    assert "image_padding" not in own.open().config.conventions


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"mm_use_im_start_end": True}, "mm_use_im_start_end true, tokens around each medium"),
        ({"mm_projector_type": "linear"}, "mm_projector_type is 'linear'; supported is 'mlp2x_gelu'"),
        ({"mm_vision_select_feature": "cls"}, "mm_vision_select_feature is 'cls'; supported are 'patch'"),
        ({"mm_vision_select_layer": None}, "mm_vision_select_layer None; it must be one layer"),
        ({"mm_hidden_size": 32}, "mm_hidden_size is 32, the towers' hidden_size 64"),
        ({"mm_image_tower": None}, "mm_image_tower None; the server needs both towers"),
        ({"vocab_size": 999}, "tokenizer has 1000 tokens, the embeddings 999 rows"),
    ],
    ids=lambda value: next(iter(value), "") if isinstance(value, dict) else "",
)
def test_config_that_cannot_be_served_is_refused(own, values, message):
    own.edit("config.json", **values)
    with pytest.raises(CheckpointError, match=message):
        own.open()


@pytest.mark.parametrize(
    ("tower", "values", "message"),
    [
        ("LanguageBind_Image", {"hidden_size": 32}, r"the towers differ: hidden_size is 64 in .* and 32 in"),
        ("LanguageBind_Image", {"add_time_attn": True}, "has add_time_attn; supported is that of the video tower"),
        ("LanguageBind_Video_merge", {"num_frames": None}, r"no vision_config with hidden_size, .*num_frames"),
    ],
)
def test_tower_that_cannot_be_served_is_refused(own, tower, values, message):
    name = f"{tower}/config.json"
    config = json.loads((own.folder / name).read_text(encoding="utf-8"))
    own.edit(name, vision_config=config["vision_config"] | values)
    with pytest.raises(CheckpointError, match=message):
        own.open()


def test_towers_of_other_frames_are_refused(own):
    for tower in ("LanguageBind_Image", "LanguageBind_Video_merge"):
        name = f"{tower}/config.json"
        config = json.loads((own.folder / name).read_text(encoding="utf-8"))
        own.edit(name, vision_config=config["vision_config"] | {"image_size": 336})
    with pytest.raises(CheckpointError, match="has image_size 336; the original code makes frames of 224"):
        own.open()


def test_a_tower_elsewhere_is_named(own, tmp_path):
    moved = Path(shutil.move(own.folder / "LanguageBind_Image", tmp_path / "elsewhere"))
    with pytest.raises(CheckpointError, match=r"image tower LanguageBind/LanguageBind_Image lies neither .*--image"):
        own.open()
    assert open_checkpoint(str(own.folder), towers={"image": moved}).config.num_frames == 8
    (own.folder.parent / "LanguageBind_Image").symlink_to(moved)
    assert own.open().config.num_frames == 8


def test_towers_are_only_for_the_original(small_checkpoint, tmp_path):
    with pytest.raises(CheckpointError, match="has its towers inside; --image-tower and"):
        open_checkpoint(str(small_checkpoint), towers={"image": tmp_path})


@pytest.mark.parametrize("keeps", ["checkpoint", "towers"])
def test_weights_may_lie_in_either_place(own, checkpoint, keeps):
    if keeps == "checkpoint":
        for path in own.folder.glob("*/pytorch_model.bin"):
            path.unlink()
    else:
        for path in own.folder.glob("pytorch_model-*.bin"):
            state = torch.load(path, weights_only=True)
            torch.save({name: tensor for name, tensor in state.items() if "_tower" not in name}, path)
    opened = own.open()
    assert set(opened.tensors) == set(checkpoint.tensors)
    frames = frames_of("video")
    expected = arrays()["video_features"][None]
    assert Difference.between("video", reference_features(opened, "video", frames), expected).relative < 1e-5


def test_weights_that_differ_between_both_places_are_refused(own):
    path = own.folder / "LanguageBind_Video_merge/pytorch_model.bin"
    state = torch.load(path, weights_only=True)
    state["vision_model.pre_layrnorm.bias"] += 1
    torch.save(state, path)
    with pytest.raises(CheckpointError, match=r"hold different video_tower\.pre_layrnorm\.bias; the original code"):
        own.open()


def test_temporal_attention_that_is_missing_is_named(own):
    for path in own.folder.rglob("*.bin"):
        state = torch.load(path, weights_only=True)
        torch.save({name: tensor for name, tensor in state.items() if "temporal" not in name}, path)
    with pytest.raises(CheckpointError, match=r"holds no tensor video_tower\.encoder\.layers\.0\.temporal_embedding"):
        export(own.open(), own.folder / "models")


def test_a_checkpoint_without_its_tokenizer_is_refused(own):
    own.remove("tokenizer.model")
    with pytest.raises(CheckpointError, match=r"has no tokenizer\.model, which the original code reads"):
        own.open()


@pytest.mark.parametrize("content", [b"", b"\0\0\0", b"<html>"])
def test_a_damaged_tokenizer_is_named(own, content):
    (own.folder / "tokenizer.model").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"tokenizer\.model is (damaged|not of Llama's kind)"):
        own.open()
