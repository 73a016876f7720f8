import shutil
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from transformers import VideoLlavaConfig, VideoLlavaForConditionalGeneration
from transformers.models.video_llava.image_processing_video_llava import VideoLlavaImageProcessor
from video_llava_client import Clip
from video_llava_export.checkpoint import open_checkpoint
from video_llava_export.comparison import Difference
from video_llava_export.encoder import load_encoder
from video_llava_export.errors import CheckpointError
from video_llava_export.external_weights import weights_path
from video_llava_export.graph import Precision, write_graph
from video_llava_export.reference import reference_features
from video_llava_export.verification import make_probe
from video_llava_server.manifest import encoder_path

TOKENS = {"video": 17, "image": 16}


def random_frames(batch, num_frames):
    return np.random.default_rng(1).integers(0, 256, (batch, num_frames, 56, 56, 3), dtype=np.uint8)


@pytest.fixture(scope="session")
def sessions(exported):
    paths = {medium: exported.folder / encoder_path(medium) for medium in TOKENS}
    return {medium: onnxruntime.InferenceSession(path) for medium, path in paths.items()}


@pytest.fixture(scope="session")
def graphs(small_checkpoint, tmp_path_factory):
    """The video encoder in each precision, in a folder of its own."""
    checkpoint = open_checkpoint(str(small_checkpoint))
    paths = {precision: tmp_path_factory.mktemp(precision) / "model.onnx" for precision in Precision}
    for precision, path in paths.items():
        encoder = load_encoder(
            "video", checkpoint.tensors, checkpoint.config, checkpoint.preprocessing, dtype=precision.torch_dtype
        )
        write_graph(encoder, path, medium="video", image_size=56, tokens_per_frame=17, precision=precision)
    return paths


@pytest.mark.parametrize("medium", TOKENS)
def test_graph_says_what_it_is(exported, medium):
    model = onnx.load(exported.folder / encoder_path(medium))
    onnx.checker.check_model(model, full_check=True)
    assert model.graph.name == f"video_llava_{medium}_encoder"
    assert "[batch, frames, 56, 56, 3]" in model.doc_string
    assert {entry.key: entry.value for entry in model.metadata_props}["tokens_per_frame"] == str(TOKENS[medium])
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", 23)]


@pytest.mark.parametrize("medium", TOKENS)
def test_batch_and_frames_are_dynamic(sessions, medium):
    (frames,), (features,) = sessions[medium].get_inputs(), sessions[medium].get_outputs()
    assert (frames.name, frames.type, frames.shape) == ("frames", "tensor(uint8)", ["batch", "frames", 56, 56, 3])
    assert (features.name, features.type) == ("features", "tensor(float)")
    assert features.shape == ["batch", f"max(1, {TOKENS[medium]} * frames)", 128]


@pytest.mark.parametrize("medium", TOKENS)
def test_graph_is_small_and_free_of_traces(exported, medium):
    model = onnx.load(exported.folder / encoder_path(medium))
    assert len(model.graph.node) < 120
    assert b"/site-packages/" not in model.SerializeToString()
    # Two of three layers are selected; the third and the final norm are not there.
    assert sum(node.op_type == "LayerNormalization" for node in model.graph.node) == 5


@pytest.mark.parametrize("precision", Precision)
def test_attention_is_one_operator_a_layer(graphs, precision):
    nodes = onnx.load(graphs[precision], load_external_data=False).graph.node
    attentions = [node for node in nodes if node.op_type == "Attention"]
    # TensorRT reads no node with more than one output; ONNX Runtime's flash kernels take no mask.
    assert [(len(node.input), len(node.output)) for node in attentions] == [(3, 1)] * 2
    assert not any(node.op_type == "Softmax" for node in nodes)


@pytest.mark.parametrize("medium", TOKENS)
@pytest.mark.parametrize("shape", [(1, 8), (2, 8), (1, 16), (3, 1), (1, 0), (2, 0)])
def test_rows_for_any_batch(sessions, medium, shape):
    batch, num_frames = shape
    (features,) = sessions[medium].run(None, {"frames": random_frames(batch, num_frames)})
    assert features.shape == (batch, max(1, num_frames * TOKENS[medium]), 128)
    assert np.isfinite(features).all()


@pytest.mark.parametrize("medium", TOKENS)
def test_no_frames_give_one_row_of_zeros(sessions, medium):
    (features,) = sessions[medium].run(None, {"frames": random_frames(2, 0)})
    np.testing.assert_array_equal(features, np.zeros((2, 1, 128), np.float32))


def test_attention_gets_two_tokens_where_there_are_no_frames(exported):
    """ONNX Runtime refuses a batch of 0."""
    model = onnx.load(exported.folder / encoder_path("video"))
    (query, *_) = next(node.input for node in model.graph.node if node.op_type == "Attention")
    model.graph.output.append(onnx.helper.make_tensor_value_info(query, onnx.TensorProto.FLOAT, None))
    session = onnxruntime.InferenceSession(model.SerializeToString())
    for shape, expected in (((1, 0), (1, 2)), ((3, 0), (1, 2)), ((1, 1), (1, 17)), ((3, 2), (6, 17))):
        (states,) = session.run([query], {"frames": random_frames(*shape)})
        assert np.asarray(states).shape == (*expected, 64)


@pytest.mark.parametrize(("precision", "largest"), [(Precision.FP32, 1e-6), (Precision.FP16, 1e-3)])
def test_batches_equal_single_requests(graphs, precision, largest):
    session = onnxruntime.InferenceSession(graphs[precision])
    frames = random_frames(3, 8)
    (together,) = session.run(None, {"frames": frames})
    apart = [np.asarray(session.run(None, {"frames": frames[index : index + 1]})[0]) for index in range(3)]
    assert Difference.between("video", np.asarray(together), np.concatenate(apart)).relative < largest


@pytest.mark.parametrize("layers", [-1, 0, [-2, -1], [1, 0]], ids=str)
@pytest.mark.parametrize("strategy", ["default", "full"])
def test_selected_layers_equal_the_reference(small_checkpoint, tmp_path, layers, strategy):
    make_variant(small_checkpoint, tmp_path, vision_feature_layer=layers, vision_feature_select_strategy=strategy)
    checkpoint = open_checkpoint(str(tmp_path))
    probe = make_probe(checkpoint)
    for medium in TOKENS:
        frames = probe.frames(medium)
        encoder = load_encoder(medium, checkpoint.tensors, checkpoint.config, checkpoint.preprocessing)
        actual = encoder(torch.from_numpy(frames)).numpy()
        np.testing.assert_allclose(actual, reference_features(checkpoint, medium, frames), rtol=1e-3, atol=1e-5)


def test_graph_of_several_layers_that_keeps_the_class_token(small_checkpoint, tmp_path):
    values = {"vision_feature_layer": [-2, 0], "vision_feature_select_strategy": "full"}
    make_variant(small_checkpoint, tmp_path, **values)
    checkpoint = open_checkpoint(str(tmp_path))
    encoder = load_encoder("image", checkpoint.tensors, checkpoint.config, checkpoint.preprocessing)
    write_graph(encoder, tmp_path / "model.onnx", medium="image", image_size=56, tokens_per_frame=17)
    probe = make_probe(checkpoint)
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    (features,) = session.run(None, {"frames": probe.images})
    expected = reference_features(checkpoint, "image", probe.images)
    np.testing.assert_allclose(np.asarray(features), expected, rtol=1e-3, atol=1e-5)


def test_the_graph_reads_no_more_frames_than_the_context_holds(small_checkpoint, tmp_path):
    checkpoint = open_checkpoint(str(small_checkpoint))
    encoder = load_encoder("video", checkpoint.tensors, checkpoint.config, checkpoint.preprocessing)
    assert encoder.max_frames * checkpoint.config.num_patches >= checkpoint.config.text.max_position_embeddings
    encoder.max_frames = 3
    write_graph(encoder, tmp_path / "model.onnx", medium="video", image_size=56, tokens_per_frame=17)
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    frames = random_frames(1, 5)
    few, many = (np.asarray(session.run(None, {"frames": frames[:, :count]})[0]) for count in (3, 5))
    assert np.array_equal(few, many)


def make_variant(small_checkpoint, folder, **values):
    """A checkpoint whose projector fits other layers, with transformers' own initial weights."""
    config = VideoLlavaConfig.from_pretrained(small_checkpoint, **values)
    torch.manual_seed(0)
    VideoLlavaForConditionalGeneration(config).save_pretrained(folder)
    for name in ("preprocessor_config.json", "tokenizer.json", "tokenizer_config.json"):
        shutil.copy(small_checkpoint / name, folder)


def test_normalisation_is_the_image_processors(small_checkpoint):
    checkpoint = open_checkpoint(str(small_checkpoint))
    frame = random_frames(1, 1)[0, 0]
    processor = VideoLlavaImageProcessor.from_pretrained(small_checkpoint)
    expected = processor(images=frame, return_tensors="np")["pixel_values_images"][0]
    actual = checkpoint.preprocessing.normalise(torch.from_numpy(frame)).numpy()
    np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-6)


def test_half_precision_towers_are_read_as_float32(editable):
    editable.replace_tensors({name: tensor.to(torch.float16) for name, tensor in editable.tensors().items()})
    checkpoint = editable.open()
    probe = make_probe(checkpoint)
    encoder = load_encoder("video", checkpoint.tensors, checkpoint.config, checkpoint.preprocessing)
    features = encoder(torch.from_numpy(probe.video)).numpy()
    np.testing.assert_allclose(features, reference_features(checkpoint, "video", probe.video), rtol=1e-3, atol=1e-4)


def test_missing_tensor_is_named(editable):
    tensors = editable.tensors()
    del tensors["video_tower.encoder.layers.1.mlp.fc1.bias"]
    editable.replace_tensors(tensors)
    checkpoint = editable.open()
    with pytest.raises(CheckpointError, match=r"holds no tensor video_tower\.encoder\.layers\.1\.mlp\.fc1\.bias"):
        load_encoder("video", checkpoint.tensors, checkpoint.config, checkpoint.preprocessing)


def test_tensor_of_another_shape_is_named(editable):
    checkpoint = editable.open()
    config = replace(checkpoint.config, image_size=112)
    with pytest.raises(CheckpointError, match=r"embedding\.weight has shape \(17, 64\), .* asks for \(65, 64\)"):
        load_encoder("video", checkpoint.tensors, config, checkpoint.preprocessing)


@pytest.fixture(scope="module")
def real_frames(clip_path):
    return Clip.from_file(clip_path, size=56).frames[None]


@pytest.mark.parametrize(
    ("precision", "largest", "size"),
    # int8 keeps the patches' convolution as it is, a fourteenth of this small tower.
    [(Precision.FP32, 1e-5, (1, 1)), (Precision.FP16, 2e-3, (0.5, 0.5)), (Precision.INT8, 4e-2, (0.25, 0.49))],
)
def test_error_and_size_of_each_precision(small_checkpoint, exported, graphs, real_frames, precision, largest, size):
    path = graphs[precision]
    assert sorted(file.name for file in path.parent.iterdir()) == ["model.onnx", "model.onnx.data"]
    exact = weights_path(exported.folder / encoder_path("video")).stat().st_size
    assert size[0] <= weights_path(path).stat().st_size / exact <= size[1]

    session = onnxruntime.InferenceSession(path)
    (features,) = session.run(None, {"frames": real_frames})
    expected = reference_features(open_checkpoint(str(small_checkpoint)), "video", real_frames)
    error = Difference.between("video", np.asarray(features), expected)
    # Less exact than the better precision.
    assert largest / 100 < error.relative < largest
    (blank,) = session.run(None, {"frames": random_frames(2, 0)})
    np.testing.assert_array_equal(np.asarray(blank), np.zeros((2, 1, 128), np.float32))


def test_frames_are_cast_before_all_else(exported):
    """TensorRT does nothing else with uint8."""
    model = onnx.load(exported.folder / encoder_path("video"), load_external_data=False)
    assert {node.op_type for node in model.graph.node if "frames" in node.input} == {"Cast", "Shape"}


def test_features_of_one_tower_are_those_of_the_whole_model(small_checkpoint):
    checkpoint = open_checkpoint(str(small_checkpoint))
    probe = make_probe(checkpoint)
    model: Any = VideoLlavaForConditionalGeneration.from_pretrained(small_checkpoint, dtype=torch.float32).eval()
    pixels = checkpoint.preprocessing.normalise(torch.from_numpy(probe.video))
    with torch.inference_mode():
        whole = model.model.get_video_features(pixel_values_videos=pixels).pooler_output
    actual = reference_features(checkpoint, "video", probe.video)
    np.testing.assert_allclose(actual, whole.reshape(actual.shape).numpy(), rtol=1e-5, atol=1e-6)
