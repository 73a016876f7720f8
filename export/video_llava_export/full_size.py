"""A checkpoint with random weights and the shapes of Video-LLaVA-7B: 14.7 GB in three shards, float16, as on the hub.

Written tensor by tensor, so that it needs less than 2 GB of memory. For trying an export, a server or a deployment at
full size where the real weights are not at hand; its answers mean nothing.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import (
    CLIPVisionConfig,
    GenerationConfig,
    LlamaConfig,
    PreTrainedTokenizerBase,
    VideoLlavaConfig,
    VideoLlavaForConditionalGeneration,
)
from transformers.models.video_llava.image_processing_video_llava import VideoLlavaImageProcessor

from .llama_tokenizer import BEGIN, END, PAD, train_tokenizer
from .names import canonical_name
from .shards import Advance, write_shards
from .tokens import IMAGE_TOKEN, VIDEO_TOKEN

NUM_PIECES = 32_000
VOCAB_SIZE = 32_064
NUM_FRAMES = 8
# Ideographs and Hangul syllables: one text of English has not enough pieces.
ALPHABET = [chr(code) for first, last in ((0x4E00, 0x9FA5), (0xAC00, 0xD7A3)) for code in range(first, last + 1)]


@dataclass(frozen=True)
class RandomTensor:
    """A tensor of float16 that is drawn when it is read: normal, around `mean`, with deviation `scale`."""

    shape: tuple[int, ...]
    mean: float
    scale: float
    seed: int
    dtype: str = "F16"

    def read(self) -> torch.Tensor:
        """The same numbers each time."""
        generator = torch.Generator().manual_seed(self.seed)
        return torch.empty(self.shape, dtype=torch.float16).normal_(self.mean, self.scale, generator=generator)


def make_full_size_checkpoint(
    folder: Path, *, text: str, seed: int = 0, advance: Callable[[int], Advance] = lambda _: lambda _: None
) -> None:
    """Write the checkpoint into `folder`; the tokenizer is trained on `text`.

    `advance` gets the number of bytes to come, and gives what is told of them as they are written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = train_tokenizer([text], num_pieces=NUM_PIECES, alphabet=ALPHABET[:31_000])
    config = make_config(tokenizer)
    config.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    ids = tokenizer.get_vocab()
    GenerationConfig(
        bos_token_id=ids[BEGIN], eos_token_id=ids[END], pad_token_id=ids[PAD], max_length=4096
    ).save_pretrained(folder)
    VideoLlavaImageProcessor().save_pretrained(folder)
    tensors = make_tensors(config, seed=seed)
    total = sum(2 * torch.Size(tensor.shape).numel() for tensor in tensors.values())
    write_shards(tensors, folder, advance=advance(total))


def make_config(tokenizer: PreTrainedTokenizerBase) -> VideoLlavaConfig:
    """The numbers of `LanguageBind/Video-LLaVA-7B-hf`."""
    ids = tokenizer.get_vocab()
    vision = CLIPVisionConfig(
        image_size=224,
        patch_size=14,
        hidden_size=1024,
        intermediate_size=4096,
        num_hidden_layers=24,
        num_attention_heads=16,
        projection_dim=768,
    )
    text = LlamaConfig(
        vocab_size=VOCAB_SIZE,
        hidden_size=4096,
        intermediate_size=11_008,
        num_hidden_layers=32,
        num_attention_heads=32,
        max_position_embeddings=4096,
        rms_norm_eps=1e-5,
        pad_token_id=ids[PAD],
    )
    return VideoLlavaConfig(
        vision_config=vision,
        text_config=text,
        image_token_index=ids[IMAGE_TOKEN],
        video_token_index=ids[VIDEO_TOKEN],
        image_seq_length=256,
        video_seq_length=NUM_FRAMES * 257,
        architectures=["VideoLlavaForConditionalGeneration"],
        dtype=torch.float16,
    )


def make_tensors(config: VideoLlavaConfig, *, seed: int) -> dict[str, RandomTensor]:
    """Every parameter by its name on the hub, which is transformers 4's, in the order of the alphabet."""
    with torch.device("meta"):
        model = VideoLlavaForConditionalGeneration(config)
    shapes = {hub_name(name): tuple(parameter.shape) for name, parameter in model.named_parameters()}
    return {
        name: RandomTensor(shapes[name], *_mean_and_scale(name, shapes[name]), seed=seed * 10_000 + number)
        for number, name in enumerate(sorted(shapes))
    }


def hub_name(name: str) -> str:
    """What the hub's files call the parameter that transformers 5 calls `name`."""
    return re.sub(r"^(video|image)_tower\.", r"\1_tower.vision_model.", canonical_name(name))


def _mean_and_scale(name: str, shape: tuple[int, ...]) -> tuple[float, float]:
    """Such that no activation leaves float16, and neither text nor picture drowns the other."""
    if name.endswith("norm.weight") or "layrnorm.weight" in name or re.search(r"layer_?norm\d?\.weight$", name):
        return 1.0, 0.0
    if len(shape) == 1 and "class_embedding" not in name:
        return 0.0, 0.02
    if "embed_tokens" in name:
        return 0.0, 1.0
    if "position_embedding" in name or "class_embedding" in name:
        return 0.0, 0.1
    fan_in = torch.Size(shape[1:]).numel()
    factor = 4.0 if "lm_head" in name else 0.3 if re.search(r"patch_embedding|linear_2", name) else 1.0
    return 0.0, factor * fan_in**-0.5
