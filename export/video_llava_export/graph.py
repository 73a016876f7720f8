"""An encoder becomes an ONNX graph that Triton, ONNX Runtime and TensorRT can read."""

import logging
import warnings
from pathlib import Path

import onnx
import torch

from .encoder import FrameEncoder

# LayerNormalization needs 17; ONNX Runtime 1.20 and TensorRT 10 understand up to 20.
OPSET = 18
INPUT, OUTPUT = "frames", "features"


def write_graph(encoder: FrameEncoder, path: Path, *, medium: str, image_size: int, tokens_per_frame: int) -> None:
    """Write the encoder of `medium` as one ONNX file, its weights inside.

    Input `frames` uint8, shape = (batch, frames, image_size, image_size, 3); output `features` float32,
    shape = (batch, max(1, frames * tokens_per_frame), hidden).
    """
    model = _trace(encoder, image_size)
    _describe(model, medium, image_size=image_size, tokens_per_frame=tokens_per_frame)
    _strip_traces(model.graph)
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save_model(model, path)
    onnx.checker.check_model(path)


def _trace(encoder: FrameEncoder, image_size: int) -> onnx.ModelProto:
    # Two of each: torch takes sizes of 0 and 1 for constants.
    frames = torch.zeros(2, 2, image_size, image_size, 3, dtype=torch.uint8)
    # It warns of every operator of torchvision that it cannot register where torchvision is absent.
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
    return program.model_proto


def _describe(model: onnx.ModelProto, medium: str, *, image_size: int, tokens_per_frame: int) -> None:
    model.graph.name = f"video_llava_{medium}_encoder"
    model.doc_string = (
        f"Video-LLaVA's {medium} tower and projector: frames uint8 RGB [batch, frames, {image_size}, {image_size}, 3] "
        f"in 0..255 become features [batch, max(1, frames * {tokens_per_frame}), hidden] of the language model. "
        "Without frames it is one row of zeros."
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
    """Drop what the tracer noted for its own use: paths of this machine, shapes under the old names."""
    del graph.value_info[:]
    del graph.metadata_props[:]
    for part in (*graph.node, *graph.input, *graph.output, *graph.initializer):
        del part.metadata_props[:]
