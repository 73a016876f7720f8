"""Two towers that are the same take the disk space of one."""

import numpy as np
import onnx
import onnxruntime
from onnx.external_data_helper import ExternalDataInfo
from video_llava_export.check import check
from video_llava_export.exporter import export
from video_llava_export.external_weights import ALIGNMENT, share_weights, weights_path
from video_llava_server.manifest import ENCODERS

FRAMES = np.random.default_rng(0).integers(0, 256, (1, 2, 56, 56, 3), dtype=np.uint8)


def encode(path):
    return np.asarray(onnxruntime.InferenceSession(path).run(None, {"frames": FRAMES})[0])


def make_towers_equal(editable):
    tensors = editable.tensors()
    for name in tensors:
        if name.startswith("image_tower."):
            tensors[name] = tensors[name.replace("image_", "video_", 1)].clone()
    editable.replace_tensors(tensors)


def test_equal_towers_are_stored_once_and_load_through_a_link(editable, tmp_path):
    make_towers_equal(editable)
    equal_towers = export(editable.open(), tmp_path / "models")
    encoders = equal_towers.folder / ENCODERS
    assert sorted(path.name for path in encoders.iterdir()) == [
        "image_encoder.onnx",
        "video_encoder.onnx",
        "video_encoder.onnx.data",
    ]
    assert [row.part for row in equal_towers.differences] == ["video_encoder", "image_encoder", "vicuna"]
    assert check(equal_towers.folder).problems == ()

    # As in the repository that a server assembles.
    for medium in ("video", "image"):
        (tmp_path / f"{medium}_encoder").mkdir()
        (tmp_path / f"{medium}_encoder/1").symlink_to(encoders)
    video, image = (encode(tmp_path / f"{medium}_encoder/1/{medium}_encoder.onnx") for medium in ("video", "image"))
    np.testing.assert_allclose(image, video.reshape(1, 2, 17, 128)[:, :, 1:].reshape(1, 32, 128), rtol=1e-4, atol=1e-5)


def write_graph(path, weights):
    tensors = [onnx.numpy_helper.from_array(array, name) for name, array in weights.items()]
    graph = onnx.helper.make_graph([], "graph", [], [], tensors)
    onnx.save_model(
        onnx.helper.make_model(graph, ir_version=10),
        path,
        save_as_external_data=True,
        location=weights_path(path).name,
        size_threshold=0,
    )


def test_weights_that_differ_are_kept_apart(tmp_path):
    """In the checkpoint of the hub they are three of some 300."""
    same, large = np.arange(1000, dtype=np.float32), np.ones(300_000, np.float32)
    first, second = tmp_path / "first.onnx", tmp_path / "second.onnx"
    write_graph(first, {"a": np.zeros(7, np.float32), "same": same})
    expected = {"b": np.ones(3, np.float32), "other name": same, "large": large}
    write_graph(second, expected)
    share_weights(first, second)
    tensors = onnx.load(second, load_external_data=False).graph.initializer
    places = {tensor.name: ExternalDataInfo(tensor) for tensor in tensors}
    assert {name: place.location for name, place in places.items()} == {
        "b": "second.onnx.data",
        "other name": "first.onnx.data",
        "large": "second.onnx.data",
    }
    assert places["large"].offset == ALIGNMENT
    for tensor in onnx.load(second).graph.initializer:
        np.testing.assert_array_equal(onnx.numpy_helper.to_array(tensor), expected[tensor.name])
