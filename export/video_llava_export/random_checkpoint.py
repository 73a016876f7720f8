"""A Video-LLaVA checkpoint with random weights, for tests and demos that need no download.

    python -m video_llava_export.random_checkpoint DIR [--seed 0]
    python -m video_llava_export.random_checkpoint DIR --shapes 7b      # 14.7 GB: full_size.py

The small one is a real `VideoLlavaForConditionalGeneration` in all but size; nothing in it is as in the 7B except the
kinds of files, so that whoever assumes a number of the 7B fails on it.
"""

import sys
from enum import StrEnum
from importlib.metadata import distribution
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from torch import nn
from transformers import (
    CLIPVisionConfig,
    GenerationConfig,
    LlamaConfig,
    PreTrainedTokenizerBase,
    VideoLlavaConfig,
    VideoLlavaForConditionalGeneration,
    VideoLlavaModel,
)
from transformers.models.video_llava.image_processing_video_llava import VideoLlavaImageProcessor
from transformers.utils import logging

from .full_size import make_full_size_checkpoint
from .llama_tokenizer import BEGIN, END, PAD, train_tokenizer
from .progress import Progress
from .tokens import IMAGE_TOKEN, VIDEO_TOKEN

IMAGE_SIZE = 56
PATCH_SIZE = 14
NUM_FRAMES = 8
NUM_PIECES = 1000
# More rows than tokens, as in the 7B, which has 32003 tokens in 32064 rows.
VOCAB_SIZE = 1024


def make_checkpoint(folder: Path, *, seed: int = 0) -> None:
    """Write the checkpoint into `folder`; the same files for the same seed and version of Python."""
    tokenizer = train_tokenizer([read_license()], num_pieces=NUM_PIECES)
    config = make_config(tokenizer)
    model = make_model(config, seed=seed)
    ids = tokenizer.get_vocab()
    model.generation_config = GenerationConfig(bos_token_id=ids[BEGIN], eos_token_id=ids[END], pad_token_id=ids[PAD])
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    VideoLlavaImageProcessor(
        size={"shortest_edge": IMAGE_SIZE}, crop_size={"height": IMAGE_SIZE, "width": IMAGE_SIZE}
    ).save_pretrained(folder)


def read_license() -> str:
    """The one English text that this package always carries: the tokenizer has the same pieces on every machine."""
    text = distribution("video-llava-triton").read_text("licenses/LICENSE")
    assert text is not None, "the package's metadata names its license"
    # Whitespace as one space: no piece of this tokenizer spans two lines, like those of the real one.
    return " ".join(text.split())


def make_config(tokenizer: PreTrainedTokenizerBase) -> VideoLlavaConfig:
    """Two towers of three layers, a Llama of four with grouped-query attention."""
    ids = tokenizer.get_vocab()
    num_patches = (IMAGE_SIZE // PATCH_SIZE) ** 2
    vision = CLIPVisionConfig(
        image_size=IMAGE_SIZE,
        patch_size=PATCH_SIZE,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=3,
        num_attention_heads=4,
    )
    text = LlamaConfig(
        vocab_size=VOCAB_SIZE,
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=2048,
        pad_token_id=ids[PAD],
    )
    return VideoLlavaConfig(
        vision_config=vision,
        text_config=text,
        image_token_index=ids[IMAGE_TOKEN],
        video_token_index=ids[VIDEO_TOKEN],
        image_seq_length=num_patches,
        video_seq_length=NUM_FRAMES * (num_patches + 1),
    )


@torch.no_grad()
def make_model(config: VideoLlavaConfig, *, seed: int) -> VideoLlavaForConditionalGeneration:
    """Random weights, scaled so that greedy answers are clear-cut, vary, and depend on what is seen.

    As transformers initialises it, the model repeats one token for ever, by gaps near the noise of float32.
    """
    torch.manual_seed(seed)
    model = VideoLlavaForConditionalGeneration(config).eval()
    for tower in (model.model.video_tower, model.model.image_tower):
        _draw_tower(tower)
    _draw_projector(model.model)
    _draw_language_model(model.model.language_model)
    _draw_head(model.lm_head.weight, config)
    return model


def _draw(weight: torch.Tensor, scale: float = 1.0) -> None:
    """Random numbers that keep the size of what they are multiplied with, times `scale`."""
    weight.normal_(0, scale * weight[0].numel() ** -0.5)


def _draw_tower(tower: nn.Module) -> None:
    """Patches outweigh positions, so that the features are of the picture and not of the grid."""
    for name, weight in tower.named_parameters():
        if "patch_embedding" in name:
            _draw(weight, 0.3)
        elif "position_embedding" in name:
            weight.normal_(0, 0.1)
        elif "class_embedding" in name:
            weight.normal_(0, 0.3)
        elif weight.ndim == 2:
            _draw(weight)


def _draw_projector(model: VideoLlavaModel) -> None:
    """Features of the size of token embeddings, so that neither drowns the other."""
    projector = model.multi_modal_projector
    _draw(projector.linear_1.weight)
    _draw(projector.linear_2.weight)
    config: Any = model.config
    size = config.vision_config.image_size
    pixels = torch.randn(NUM_FRAMES, 3, size, size)
    states = model.video_tower(pixels, output_hidden_states=True).hidden_states[-2]
    projector.linear_2.weight /= projector(states).std()


def _draw_language_model(language_model: nn.Module) -> None:
    """Sharp attention keeps answers from looping; sharper still, it magnifies the noise of float32."""
    for name, weight in language_model.named_parameters():
        if "embed_tokens" in name:
            weight.normal_(0, 1)
        elif "q_proj" in name or "k_proj" in name:
            _draw(weight, 2.0)
        elif weight.ndim == 2:
            _draw(weight)


def _draw_head(weight: torch.Tensor, config: VideoLlavaConfig) -> None:
    """Some answers end, few hold a raw byte, none an unknown token or what only prompts may hold."""
    _draw(weight, 4.0)
    unknown, begin, end, first_byte, first_piece = 0, 1, 2, 3, 259
    weight[end] *= 1.5
    weight[first_byte:first_piece] *= 0.75
    weight[[unknown, begin]] = 0
    weight[config.image_token_index :] = 0


class Shapes(StrEnum):
    """How large a checkpoint is made."""

    SMALL = "small"
    FULL = "7b"


app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)


@app.command()
def command(
    folder: Annotated[Path, typer.Argument(file_okay=False, help="Where to write the checkpoint")],
    seed: Annotated[int, typer.Option(help="Another seed gives another model")] = 0,
    shapes: Annotated[Shapes, typer.Option(help="small: 2 MB; 7b: those of the real model, 14.7 GB")] = Shapes.SMALL,
) -> None:
    """Write a random Video-LLaVA checkpoint into FOLDER."""
    logging.disable_progress_bar()
    if shapes is Shapes.FULL:
        with Progress(lambda line: typer.echo(line, err=True), bars=sys.stderr.isatty()).step("checkpoint") as step:
            make_full_size_checkpoint(folder, text=read_license(), seed=seed, advance=step.expect)
    else:
        make_checkpoint(folder, seed=seed)
    typer.echo(f"Next: video-llava-export {folder} --into DIR")


if __name__ == "__main__":
    sys.exit(app())
