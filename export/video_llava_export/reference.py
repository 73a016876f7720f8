"""The reference: Hugging Face's own model, of one tower, of the language model, or of everything."""

import warnings
from collections.abc import Callable
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch
from PIL import Image
from torch import nn
from transformers import (
    AutoTokenizer,
    LlamaForCausalLM,
    VideoLlavaConfig,
    VideoLlavaForConditionalGeneration,
    VideoLlavaModel,
)
from transformers.models.video_llava.image_processing_video_llava import VideoLlavaImageProcessor
from video_llava_client import build_prompt

from .checkpoint import Checkpoint
from .comparison import Case, GreedyAnswer
from .names import LANGUAGE_MODEL, PROJECTOR, hub_name
from .temporal_layers import add_temporal_layers
from .tensors import Tensors
from .tokens import IMAGE_TOKEN, VIDEO_TOKEN


class ReferenceDtype(StrEnum):
    """What the reference computes in."""

    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"
    FLOAT16 = "float16"


@torch.inference_mode()
def reference_features(checkpoint: Checkpoint, medium: str, frames: np.ndarray) -> np.ndarray:
    """Features of frames uint8, shape = (1, frames, H, W, 3): float32, shape = (1, rows, hidden).

    Only the tower of `medium` and the projector are read.
    """
    model = load_vision(checkpoint, medium)
    return features_of(model, medium, checkpoint.preprocessing.normalise(torch.from_numpy(frames[0])))[None]


@torch.inference_mode()
def load_vision(checkpoint: Checkpoint, *media: str) -> VideoLlavaModel:
    """The model in float32; only the towers of `media` (none: both) and the projector have weights, while they run."""
    config = _config(checkpoint)
    with torch.device("meta"):
        model = VideoLlavaModel(config)
        add_temporal_layers(model, config)
    for name in (*(f"{medium}_tower." for medium in media or ("video", "image")), PROJECTOR):
        _fill_while_it_runs(model.get_submodule(name.removesuffix(".")), name, checkpoint.tensors)
    return model.eval()


@torch.inference_mode()
def reference_logits(checkpoint: Checkpoint, token_ids: torch.Tensor) -> np.ndarray:
    """Logits of the whole model in float32, shape = (1, tokens, vocabulary)."""
    if checkpoint.config.is_original:
        return load_language_model(checkpoint, dtype=torch.float32)(input_ids=token_ids).logits.numpy()
    return _load(checkpoint, torch.float32)(input_ids=token_ids).logits.numpy()


def _load(checkpoint: Checkpoint, dtype: torch.dtype) -> Any:
    """The whole model, of the checkpoint's tensors and not of its folder: an adapter may be merged into them."""
    state = {hub_name(name): checkpoint.tensors[name].read() for name in checkpoint.tensors}
    config: Any = _config(checkpoint)
    return VideoLlavaForConditionalGeneration.from_pretrained(None, config=config, state_dict=state, dtype=dtype).eval()


def load_language_model(checkpoint: Checkpoint, *, dtype: torch.dtype) -> LlamaForCausalLM:
    """The language model in `dtype`, filled tensor by tensor."""
    config = checkpoint.config.text
    with torch.device("meta"):
        model: Any = LlamaForCausalLM(config).eval()
    model.to(dtype).to_empty(device="cpu")
    model.tie_weights()
    for name, parameter in model.named_parameters():
        with torch.no_grad():
            parameter.copy_(checkpoint.tensors[LANGUAGE_MODEL + name].read())
    model.model.rotary_emb = type(model.model.rotary_emb)(config)  # its buffers are no weights
    return model


def _config(checkpoint: Checkpoint) -> VideoLlavaConfig:
    config = VideoLlavaConfig.from_dict(checkpoint.config.raw)
    config.tie_word_embeddings = checkpoint.config.tied_embeddings
    return config


def _fill_while_it_runs(module: nn.Module, prefix: str, tensors: Tensors) -> None:
    """Each layer reads its weights when it is called and drops them after: a tower is never in memory as a whole."""

    def fill(layer: nn.Module, _: Any, *, name: str) -> None:
        layer.to_empty(device="cpu", recurse=False)
        for leaf, parameter in layer.named_parameters(recurse=False):
            # A checkpoint may lack what features do not need: the last layer, the last norm.
            stored = f"{prefix}{name}{leaf}".replace("vision_model.", "")
            if stored in tensors:
                parameter.copy_(tensors[stored].read())
        for leaf, buffer in layer.named_buffers(recurse=False):
            assert leaf == "position_ids", f"{leaf} would have to be filled"
            buffer.copy_(torch.arange(buffer.shape[-1]).expand(buffer.shape))

    for name, layer in module.named_modules():
        if next(layer.parameters(recurse=False), None) is not None:
            layer.register_forward_pre_hook(partial(fill, name=f"{name}." if name else ""))
            layer.register_forward_hook(lambda layer, *_: layer.to_empty(device="meta", recurse=False) and None)


def features_of(model: Any, medium: str, pixels: torch.Tensor) -> np.ndarray:
    """Of pixels, shape = (frames, 3, H, W): float32, shape = (rows, hidden), as the graphs lay them out."""
    if medium == "video":
        features = model.get_video_features(pixel_values_videos=pixels[None])
    else:
        features = model.get_image_features(pixel_values_images=pixels)
    # transformers 4 gives the tensor itself, 5 an object with it.
    tensor = getattr(features, "pooler_output", features)
    return tensor.reshape(-1, tensor.shape[-1]).float().numpy()


class ReferenceModel:
    """The whole checkpoint in memory, in `dtype`; frames are taken as its model card does."""

    def __init__(self, checkpoint: Checkpoint, *, dtype: ReferenceDtype) -> None:
        self._config = checkpoint.config
        with warnings.catch_warnings(action="ignore"):  # transformers' own
            self._model = _load(checkpoint, getattr(torch, dtype))
            self._tokenizer = AutoTokenizer.from_pretrained(checkpoint.parts.tokenizer)
            self._processor = VideoLlavaImageProcessor.from_pretrained(checkpoint.parts.preprocessor)

    @torch.inference_mode()
    def answer(self, case: Case, *, max_tokens: int) -> GreedyAnswer:
        """Decode the whole file, and generate greedily."""
        pixels = self._pixels(case)
        ids = self._tokenizer(self._expand(prompt_of(case)), return_tensors="pt")["input_ids"]
        output = self._model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            **{f"pixel_values_{case.medium}s": pixels[None] if case.medium == "video" else pixels},
            max_new_tokens=max_tokens,
            do_sample=False,
            output_logits=True,
            return_dict_in_generate=True,
        )
        token_ids = output.sequences[0, ids.shape[1] :].tolist()
        return GreedyAnswer(
            text=self._tokenizer.decode(token_ids, skip_special_tokens=True),
            features=features_of(self._model.model, case.medium, pixels),
            token_ids=tuple(token_ids),
            logprobs=[logits[0].float().log_softmax(-1).numpy() for logits in output.logits],
        )

    def _pixels(self, case: Case) -> torch.Tensor:
        """Shape = (frames, 3, H, W)."""
        if case.medium == "video":
            num_frames = self._config.num_frames
            frames: list[Any] = sample_frames(case.media, lambda total: np.arange(0, total, total / num_frames))
        else:
            with Image.open(case.media) as image:
                frames = [image.convert("RGB")]
        return self._processor(images=frames, return_tensors="pt")["pixel_values_images"].to(self._model.dtype)

    def _expand(self, prompt: str) -> str:
        """Repeat each placeholder for every position of its medium."""
        video_tokens = self._config.num_frames * self._config.tokens_per_frame
        for token, count in ((IMAGE_TOKEN, self._config.tokens_per_image), (VIDEO_TOKEN, video_tokens)):
            prompt = prompt.replace(token, token * count)
        return prompt


def prompt_of(case: Case, *, system: str = "") -> str:
    """The prompt that both sides get."""
    is_video = case.medium == "video"
    return build_prompt(case.question, num_videos=int(is_video), num_images=int(not is_video), system=system)


def sample_frames(path: Path, choose: Callable[[int], np.ndarray]) -> list[np.ndarray]:
    """The frames that `choose` picks of so many, uint8 RGB in the file's own size; every frame is decoded, twice."""
    with av.open(str(path)) as container:
        total = sum(1 for _ in container.decode(video=0))
    wanted = choose(total).astype(int).tolist()
    with av.open(str(path)) as container:
        found = {
            index: frame.to_ndarray(format="rgb24")
            for index, frame in enumerate(container.decode(video=0))
            if index in wanted
        }
    return [found[index] for index in wanted]
