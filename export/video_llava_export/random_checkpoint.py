"""Video-LLaVA checkpoints with random weights, for tests, demos and trials that need no download.

    python -m video_llava_export.random_checkpoint DIR [--seed 0]
    python -m video_llava_export.random_checkpoint DIR --shapes 7b      # 14.7 GB
    python -m video_llava_export.random_checkpoint DIR --layout original [--shapes 7b]

The small one is a real `VideoLlavaForConditionalGeneration`; it shares no number with the 7B, so that code that assumes
one fails on it. The one of the 7B's shapes is written tensor by tensor, so that it needs less than 2 GB of memory.
"""

import sys
from collections.abc import Mapping
from enum import StrEnum
from importlib.metadata import distribution
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from transformers import (
    CLIPVisionConfig,
    GenerationConfig,
    LlamaConfig,
    PreTrainedTokenizerBase,
    VideoLlavaConfig,
    VideoLlavaForConditionalGeneration,
)
from transformers.models.video_llava.image_processing_video_llava import VideoLlavaImageProcessor
from transformers.utils import logging

from .llama_tokenizer import BEGIN, END, PAD, train_tokenizer
from .names import hub_name
from .original import IMAGE_SIZE
from .progress import Progress, Step
from .random_original import open_config, write_original_configs, write_original_weights
from .random_weights import RandomTensor, draw_small_model
from .shards import write_shards
from .temporal_layers import add_temporal_layers
from .tokens import IMAGE_TOKEN, VIDEO_TOKEN

NUM_FRAMES = 8
# Ideographs and Hangul syllables: one English text has not enough pieces for the 7B's vocabulary.
_ALPHABET = [chr(code) for first, last in ((0x4E00, 0x9FA5), (0xAC00, 0xD7A3)) for code in range(first, last + 1)]


class Shapes(StrEnum):
    """How large a checkpoint is made."""

    SMALL = "small"
    FULL = "7b"


class Layout(StrEnum):
    """How a checkpoint's files and tensors are named."""

    TRANSFORMERS = "transformers"
    ORIGINAL = "original"


# Grouped-query attention, and as in the 7B more rows of the vocabulary than tokens.
_VISION: dict[Shapes, dict[str, Any]] = {
    Shapes.SMALL: {
        "image_size": 56,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
    },
    Shapes.FULL: {
        "image_size": 224,
        "hidden_size": 1024,
        "intermediate_size": 4096,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
        "projection_dim": 768,
    },
}
_TEXT: dict[Shapes, dict[str, Any]] = {
    Shapes.SMALL: {
        "vocab_size": 1024,
        "hidden_size": 128,
        "intermediate_size": 256,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 2048,
    },
    Shapes.FULL: {
        "vocab_size": 32_064,
        "hidden_size": 4096,
        "intermediate_size": 11_008,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "max_position_embeddings": 4096,
        "rms_norm_eps": 1e-5,
    },
}


def make_checkpoint(folder: Path, *, seed: int = 0) -> None:
    """Write the small checkpoint into `folder`; the same files for the same seed and version of Python."""
    tokenizer = train_tokenizer([read_license()], num_pieces=1000)
    config = make_config(tokenizer, Shapes.SMALL)
    make_model(config, seed=seed).save_pretrained(folder)
    _save_rest(folder, tokenizer, config)


def make_original_checkpoint(folder: Path, *, seed: int = 0) -> None:
    """Write a small checkpoint of the original layout into `folder`, its towers inside and beside, as on the hub."""
    tokenizer = train_tokenizer([read_license()], num_pieces=1000)
    vision = _VISION[Shapes.SMALL] | {"image_size": IMAGE_SIZE, "patch_size": 56}
    write_original_configs(folder, tokenizer, _TEXT[Shapes.SMALL] | {"vocab_size": 1000}, vision)
    config = open_config(folder)
    torch.manual_seed(seed)
    model = VideoLlavaForConditionalGeneration(config)
    add_temporal_layers(model.model, config)
    draw_small_model(model.eval())
    write_original_weights(folder, {name: tensor.detach() for name, tensor in model.named_parameters()})


def make_full_size_checkpoint(folder: Path, layout: Layout, *, step: Step, seed: int = 0) -> None:
    """Write the checkpoint of the 7B's shapes into `folder`, float16, in the shards that the hub has."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = train_tokenizer([read_license()], num_pieces=32_000, alphabet=_ALPHABET[:31_000])
    if layout is Layout.ORIGINAL:
        text = _TEXT[Shapes.FULL] | {"vocab_size": 32_000, "torch_dtype": "float16"}
        write_original_configs(folder, tokenizer, text, _VISION[Shapes.FULL] | {"patch_size": 14})
        tensors = make_tensors(open_config(folder), seed=seed)
        towers = {name: tensor for name, tensor in tensors.items() if "_tower" in name}
        write_original_weights(folder, tensors, advance=step.expect(_num_bytes(tensors) + _num_bytes(towers)))
    else:
        config = make_config(tokenizer, Shapes.FULL)
        config.save_pretrained(folder)
        _save_rest(folder, tokenizer, config)
        tensors = make_tensors(config, seed=seed)
        write_shards(tensors, folder, advance=step.expect(_num_bytes(tensors)))


def _num_bytes(tensors: Mapping[str, RandomTensor]) -> int:
    return sum(2 * torch.Size(tensor.shape).numel() for tensor in tensors.values())


def read_license() -> str:
    """The one English text that this package always carries: the tokenizer has the same pieces on every machine."""
    text = distribution("video-llava-triton").read_text("licenses/LICENSE")
    assert text is not None, "the package's metadata names its license"
    # Whitespace as one space: no piece of this tokenizer spans two lines, like those of the real one.
    return " ".join(text.split())


def make_config(tokenizer: PreTrainedTokenizerBase, shapes: Shapes) -> VideoLlavaConfig:
    """Two equal towers and a Llama."""
    ids = tokenizer.get_vocab()
    vision = CLIPVisionConfig(patch_size=14, **_VISION[shapes])
    num_patches = (_VISION[shapes]["image_size"] // 14) ** 2
    return VideoLlavaConfig(
        vision_config=vision,
        text_config=LlamaConfig(pad_token_id=ids[PAD], **_TEXT[shapes]),
        image_token_index=ids[IMAGE_TOKEN],
        video_token_index=ids[VIDEO_TOKEN],
        image_seq_length=num_patches,
        video_seq_length=NUM_FRAMES * (num_patches + 1),
        architectures=["VideoLlavaForConditionalGeneration"],
        dtype=torch.float16 if shapes is Shapes.FULL else torch.float32,
    )


def _save_rest(folder: Path, tokenizer: PreTrainedTokenizerBase, config: VideoLlavaConfig) -> None:
    """Everything but the weights and their config."""
    tokenizer.save_pretrained(folder)
    ids, parts = tokenizer.get_vocab(), vars(config)
    GenerationConfig(bos_token_id=ids[BEGIN], eos_token_id=ids[END], pad_token_id=ids[PAD]).save_pretrained(folder)
    size = parts["vision_config"].image_size
    VideoLlavaImageProcessor(size={"shortest_edge": size}, crop_size={"height": size, "width": size}).save_pretrained(
        folder
    )


def make_model(config: VideoLlavaConfig, *, seed: int) -> VideoLlavaForConditionalGeneration:
    """Random weights, scaled so that greedy answers are clear-cut, vary, and depend on what is seen."""
    torch.manual_seed(seed)
    model = VideoLlavaForConditionalGeneration(config).eval()
    draw_small_model(model)
    return model


def make_tensors(config: VideoLlavaConfig, *, seed: int) -> dict[str, RandomTensor]:
    """Every parameter by its name on the hub, which is transformers 4's, in the order of the alphabet."""
    with torch.device("meta"):
        model = VideoLlavaForConditionalGeneration(config)
        add_temporal_layers(model.model, config)
    shapes = {hub_name(name): tuple(parameter.shape) for name, parameter in model.named_parameters()}
    return {
        name: RandomTensor.of(name, shapes[name], seed=seed * 10_000 + number)
        for number, name in enumerate(sorted(shapes))
    }


app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)


@app.command()
def command(
    folder: Annotated[Path, typer.Argument(file_okay=False, help="Where to write the checkpoint")],
    seed: Annotated[int, typer.Option(help="Another seed gives another model")] = 0,
    shapes: Annotated[Shapes, typer.Option(help="small: 4 MB; 7b: those of the real model, 14.7 GB")] = Shapes.SMALL,
    layout: Annotated[
        Layout, typer.Option(help="original: that of the code that trained Video-LLaVA, with temporal attention")
    ] = Layout.TRANSFORMERS,
) -> None:
    """Write a random Video-LLaVA checkpoint into FOLDER."""
    logging.disable_progress_bar()
    if shapes is Shapes.FULL:
        with Progress(lambda line: typer.echo(line, err=True), bars=sys.stderr.isatty()).step("checkpoint") as step:
            make_full_size_checkpoint(folder, layout, step=step, seed=seed)
    elif layout is Layout.ORIGINAL:
        make_original_checkpoint(folder, seed=seed)
    else:
        make_checkpoint(folder, seed=seed)
    typer.echo(f"Next: video-llava-export {folder} --into DIR")


if __name__ == "__main__":
    sys.exit(app())
