"""A model folder with tensors of the 7B's sizes and nothing behind them."""

import json
from pathlib import Path
from typing import Any

import onnx
import torch
from onnx import TensorProto, helper
from safetensors.torch import save_file
from video_llava_export.files import facts_of
from video_llava_export.llama_tokenizer import train_tokenizer
from video_llava_export.random_checkpoint import read_license
from video_llava_export.tokens import IMAGE_TOKEN, VIDEO_TOKEN
from video_llava_server.manifest import ENCODERS, LANGUAGE_MODEL, Manifest, encoder_path

from ..shapes import IMAGE_SIZE, NUM_FRAMES, NUM_PIECES, TOKENS_PER_FRAME, VOCAB_SIZE

HIDDEN_SIZE = 4096
MAX_MODEL_LEN = 4096
ENGINE_ARGUMENTS: dict[str, Any] = {"dtype": "bfloat16", "max_model_len": MAX_MODEL_LEN}


def write_model(folder: Path, *, features: int) -> None:
    """Write a model folder whose encoders give `features` (TensorProto.FLOAT or FLOAT16)."""
    if folder.exists():
        return
    draft = folder.with_name(f"{folder.name}.draft")
    language_model = draft / LANGUAGE_MODEL
    language_model.mkdir(parents=True, exist_ok=True)
    (draft / ENCODERS).mkdir(exist_ok=True)
    tokenizer = train_tokenizer([read_license()], num_pieces=NUM_PIECES)
    tokenizer.save_pretrained(language_model)
    save_file(
        {"model.embed_tokens.weight": torch.zeros(VOCAB_SIZE, HIDDEN_SIZE, dtype=torch.bfloat16)},
        language_model / "model.safetensors",
    )
    tokens = {"video": TOKENS_PER_FRAME, "image": TOKENS_PER_FRAME - 1}
    for medium, count in tokens.items():
        onnx.save_model(_encoder(count, features), draft / encoder_path(medium))
    ids = tokenizer.get_vocab()
    paths = [path for path in sorted(draft.rglob("*")) if path.is_file()]
    Manifest(
        id="path",
        created_by="make bench-path",
        source="",
        revision=None,
        image_size=IMAGE_SIZE,
        num_frames=NUM_FRAMES,
        tokens_per_frame=tokens["video"],
        tokens_per_image=tokens["image"],
        hidden_size=HIDDEN_SIZE,
        vocab_size=VOCAB_SIZE,
        max_position_embeddings=MAX_MODEL_LEN,
        image_token=IMAGE_TOKEN,
        image_token_id=ids[IMAGE_TOKEN],
        video_token=VIDEO_TOKEN,
        video_token_id=ids[VIDEO_TOKEN],
        dtypes={
            "features": "float32" if features == TensorProto.FLOAT else "float16",
            "vicuna": ENGINE_ARGUMENTS["dtype"],
        },
        quantization=None,
        profile=None,
        engine_arguments=ENGINE_ARGUMENTS,
        files={path.relative_to(draft).as_posix(): facts_of(path) for path in paths},
    ).write(draft)
    draft.rename(folder)


def _encoder(tokens: int, features: int) -> onnx.ModelProto:
    """One pixel, spread over as many features as an encoder gives: it costs what writing them costs."""
    frames = helper.make_tensor_value_info("frames", TensorProto.UINT8, ["b", "f", IMAGE_SIZE, IMAGE_SIZE, 3])
    output = helper.make_tensor_value_info("features", features, ["b", "rows", HIDDEN_SIZE])

    def constant(name: str, values: list[int]) -> onnx.TensorProto:
        return helper.make_tensor(name, TensorProto.INT64, [len(values)], values)

    constants = [
        constant("tokens", [tokens]),
        constant("one", [1]),
        constant("hidden", [HIDDEN_SIZE]),
        constant("first", [0]),
        constant("second", [1]),
        constant("third", [2]),
        helper.make_tensor("scale", features, [1], [1 / 256]),
        helper.make_tensor("zero", features, [1], [0.0]),
    ]
    nodes = [
        helper.make_node("Shape", ["frames"], ["shape"]),
        helper.make_node("Slice", ["shape", "first", "second"], ["batch"]),
        helper.make_node("Slice", ["shape", "second", "third"], ["count"]),
        helper.make_node("Mul", ["count", "tokens"], ["product"]),
        helper.make_node("Max", ["product", "one"], ["rows"]),
        helper.make_node("Concat", ["batch", "rows", "hidden"], ["target"], axis=0),
        helper.make_node("Reshape", ["frames", "minus"], ["flat"]),
        helper.make_node("Slice", ["flat", "first", "second"], ["pixel"]),
        helper.make_node("Cast", ["pixel"], ["value"], to=features),
        helper.make_node("Concat", ["value", "zero"], ["padded"], axis=0),
        helper.make_node("Slice", ["padded", "first", "second"], ["level"]),
        helper.make_node("Mul", ["level", "scale"], ["scaled"]),
        helper.make_node("Expand", ["scaled", "target"], ["features"]),
    ]
    constants.append(constant("minus", [-1]))
    graph = helper.make_graph(nodes, "spread", [frames], [output], constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def read_engine_arguments(model: Path) -> dict[str, Any]:
    """Return those of a model folder."""
    return json.loads((model / "manifest.json").read_text(encoding="utf-8"))["engine_arguments"]
