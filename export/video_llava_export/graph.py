"""An encoder becomes an ONNX graph that Triton, ONNX Runtime and TensorRT can read."""

import logging
import tempfile
import warnings
from enum import StrEnum
from importlib import import_module
from pathlib import Path
from typing import Any

import onnx
import onnx_ir
import torch

from .encoder import FrameEncoder
from .external_weights import weights_path
from .memory import give_back

# The first with Attention. CUDA kernels of 24 came later to ONNX Runtime; without them Cast and Reshape run on the CPU.
OPSET = 23
INPUT, OUTPUT = "frames", "features"
# Shapes and scalars stay in the graph: tools read them there.
MIN_EXTERNAL_BYTES = 1024
# int8: weights per scale, and ONNX Runtime's number for integer activations.
BLOCK_SIZE, INT8_ACTIVATIONS = 64, 4


class Precision(StrEnum):
    """What an encoder computes in."""

    FP32 = "fp32"
    FP16 = "fp16"
    INT8 = "int8"

    @property
    def torch_dtype(self) -> torch.dtype:
        """What the encoder is traced in."""
        return torch.float16 if self is Precision.FP16 else torch.float32

    @property
    def word(self) -> str:
        """As the manifest spells it."""
        return {Precision.FP32: "float32", Precision.FP16: "float16", Precision.INT8: "int8"}[self]


def write_graph(
    encoder: FrameEncoder,
    path: Path,
    *,
    medium: str,
    image_size: int,
    tokens_per_frame: int,
    precision: Precision = Precision.FP32,
) -> int:
    """Write the encoder of `medium` as an ONNX graph, and its weights beside it (`weights_path`). Returns the bytes.

    Input `frames` uint8, shape = (batch, frames, image_size, image_size, 3); output `features` of
    `encoder.features_dtype`, shape = (batch, max(1, frames * tokens_per_frame), hidden). The weights of `encoder` are
    released.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    model = _trace(encoder, image_size)
    if precision is Precision.INT8:
        model = _quantise(model, encoder, path.parent)
    _save(model, path, medium, image_size=image_size, tokens_per_frame=tokens_per_frame)
    encoder.release()
    onnx.checker.check_model(path)
    return path.stat().st_size + weights_path(path).stat().st_size


def _save(model: onnx_ir.Model, path: Path, medium: str, *, image_size: int, tokens_per_frame: int) -> None:
    """Write the weights one by one, then the graph without them."""
    unloaded = onnx_ir.external_data.unload_from_model(
        model, path.parent, weights_path(path).name, size_threshold_bytes=MIN_EXTERNAL_BYTES
    )
    proto = onnx_ir.to_proto(unloaded)
    _describe(proto, medium, image_size=image_size, tokens_per_frame=tokens_per_frame)
    _strip_traces(proto.graph)
    onnx.save_model(proto, path)


def _quantise(model: onnx_ir.Model, encoder: FrameEncoder, scratch: Path) -> onnx_ir.Model:
    """Weights as int8 in blocks of 64 with a scale each; activations likewise while it runs; the rest stays float32.

    One scale per channel (`quantize_dynamic`) would be faster, but less exact: an outlier spoils a whole channel.
    """
    quantiser_module = _import_quantiser()
    with tempfile.TemporaryDirectory(dir=scratch) as folder:
        path = Path(folder) / "model.onnx"
        onnx_ir.save(model, path, external_data=weights_path(path).name)
        del model
        encoder.release()
        give_back()
        quantiser = quantiser_module.MatMulNBitsQuantizer(
            onnx.load(path), bits=8, block_size=BLOCK_SIZE, is_symmetric=True, accuracy_level=INT8_ACTIVATIONS
        )
        quantiser.process()
        return onnx_ir.from_proto(quantiser.model.model)


def _import_quantiser() -> Any:
    """Import it without its side effects: it configures the root logger, and logs every node."""
    root = logging.getLogger()
    level, handlers = root.level, root.handlers[:]
    module = import_module("onnxruntime.quantization.matmul_nbits_quantizer")
    root.setLevel(level)
    root.handlers[:] = handlers
    logging.getLogger(module.__name__).setLevel(logging.WARNING)
    return module


def _trace(encoder: FrameEncoder, image_size: int) -> onnx_ir.Model:
    # Two of each: torch takes sizes of 0 and 1 for constants.
    frames = torch.zeros(2, 2 * (encoder.tower.temporal_frames or 1), image_size, image_size, 3, dtype=torch.uint8)
    # It warns of every operator of torchvision, which is not installed.
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"`isinstance\(treespec, LeafSpec\)` is deprecated")
        program = torch.onnx.export(
            encoder,
            (frames,),
            dynamo=True,
            opset_version=OPSET,
            input_names=[INPUT],
            output_names=[OUTPUT],
            dynamic_shapes={"frames": {0: torch.export.Dim.DYNAMIC, 1: torch.export.Dim.DYNAMIC}},
            verbose=False,
        )
    assert program is not None
    return program.model


def _describe(model: onnx.ModelProto, medium: str, *, image_size: int, tokens_per_frame: int) -> None:
    model.graph.name = f"video_llava_{medium}_encoder"
    model.doc_string = (
        f"Video-LLaVA's {medium} tower and projector: frames uint8 RGB [batch, frames, {image_size}, {image_size}, 3] "
        f"in 0..255 become features [batch, max(1, frames * {tokens_per_frame}), hidden] of the language model. "
        "Without frames it is one row of zeros. Frames that the context has no room for are not read."
    )
    onnx.helper.set_model_props(
        model, {"medium": medium, "image_size": str(image_size), "tokens_per_frame": str(tokens_per_frame)}
    )
    frames, features = model.graph.input[0], model.graph.output[0]
    for index, name in enumerate(("batch", "frames")):
        frames.type.tensor_type.shape.dim[index].dim_param = name
    features.type.tensor_type.shape.dim[0].dim_param = "batch"
    features.type.tensor_type.shape.dim[1].dim_param = f"max(1, {tokens_per_frame} * frames)"


def _strip_traces(graph: onnx.GraphProto) -> None:
    """Remove the tracer's own notes: paths of this machine, shapes under the old names."""
    del graph.value_info[:]
    del graph.metadata_props[:]
    for part in (*graph.node, *graph.input, *graph.output, *graph.initializer):
        del part.metadata_props[:]
