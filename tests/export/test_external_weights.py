"""Two towers that are the same take the disk space of one."""

import numpy as np
import onnx
import onnxruntime
from video_llava_export.check import check
from video_llava_export.exporter import export
from video_llava_export.external_weights import weights_path
from video_llava_server.manifest import ENCODERS, encoder_path

FRAMES = np.random.default_rng(0).integers(0, 256, (1, 2, 56, 56, 3), dtype=np.uint8)


def encode(path):
    return np.asarray(onnxruntime.InferenceSession(path).run(None, {"frames": FRAMES})[0])


def make_towers_equal(editable, *, except_for="nothing"):
    tensors = editable.tensors()
    for name in tensors:
        if name.startswith("image_tower.") and not name.endswith(except_for):
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


def test_tensors_that_differ_are_kept_apart(editable, tmp_path):
    """In the checkpoint of the hub they are three of some 300."""
    other = "layers.1.mlp.fc1.weight"
    make_towers_equal(editable, except_for=other)
    image = export(editable.open(), tmp_path / "models").folder / encoder_path("image")
    tensors = onnx.load(image, load_external_data=False).graph.initializer
    files = [tensor.external_data[0].value for tensor in tensors if tensor.external_data]
    assert files.count("image_encoder.onnx.data") == 1 < files.count("video_encoder.onnx.data")
    assert weights_path(image).stat().st_size == editable.tensors()[f"image_tower.encoder.{other}"].nbytes
