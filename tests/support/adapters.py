"""Adapters that PEFT itself makes, saves and merges."""

import re
import warnings
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import VideoLlavaForConditionalGeneration
from video_llava_export.names import canonical_name

# What transformers 4 called the modules when it trained the adapter.
NAMES_OF_VERSION_4 = {
    r"^base_model\.model\.lm_head\.": "base_model.model.language_model.lm_head.",
    r"^base_model\.model\.model\.language_model\.": "base_model.model.language_model.model.",
    r"^base_model\.model\.model\.(video|image)_tower\.": r"base_model.model.\1_tower.vision_model.",
    r"^base_model\.model\.model\.multi_modal_projector\.": "base_model.model.multi_modal_projector.",
}
_UNUSED_LAYER = re.compile(r"(video|image)_tower\.(encoder\.layers\.2|post_layernorm)\.")


def make_adapter(checkpoint: Path, folder: Path, *, seed: int = 0, scale: float = 0.05, **config: Any) -> Path:
    """Save an adapter of the small checkpoint into `folder`: PEFT's own, with random numbers as if it were trained.

    The towers' last layer stays as it was: its output is not used, so training leaves it alone.
    """
    model = load(checkpoint)
    with warnings.catch_warnings(action="ignore"):
        adapted = get_peft_model(model, LoraConfig(**config))
        generator = torch.Generator().manual_seed(seed)
        for name, parameter in adapted.named_parameters():
            if parameter.requires_grad and not _UNUSED_LAYER.search(name):
                parameter.data += scale * torch.randn(parameter.shape, generator=generator)
        adapted.save_pretrained(str(folder))
    return folder


def merge_with_peft(checkpoint: Path, adapter: Path, *, dtype: torch.dtype = torch.float32) -> dict[str, torch.Tensor]:
    """All tensors of PEFT's own merge, by canonical name."""
    return {
        canonical_name(name): tensor for name, tensor in merged_model(checkpoint, adapter, dtype).state_dict().items()
    }


def merged_model(checkpoint: Path, adapter: Path, dtype: torch.dtype = torch.float32) -> Any:
    """The model that PEFT merges."""
    with warnings.catch_warnings(action="ignore"):
        return PeftModel.from_pretrained(load(checkpoint, dtype), str(adapter)).merge_and_unload()


def load(checkpoint: Path, dtype: torch.dtype = torch.float32) -> Any:
    return VideoLlavaForConditionalGeneration.from_pretrained(checkpoint, dtype=dtype)
