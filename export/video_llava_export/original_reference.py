"""The reference for checkpoints of the original layout: pixels and prompt of the original code, transformers' modules.

`tests/export/original/` holds what the original code itself computes, and the tests compare this with it.
"""

import re
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from sentencepiece import SentencePieceProcessor

from . import original
from .checkpoint import Checkpoint
from .comparison import Case, GreedyAnswer
from .reference import (
    ReferenceDtype,
    ReferenceModel,
    features_of,
    load_language_model,
    load_vision,
    prompt_of,
    sample_frames,
)
from .tokens import IMAGE_TOKEN, VIDEO_TOKEN


def load_reference(checkpoint: Checkpoint, *, dtype: ReferenceDtype) -> "ReferenceModel | OriginalReferenceModel":
    """What answers as the checkpoint's own code does."""
    return (OriginalReferenceModel if checkpoint.config.is_original else ReferenceModel)(checkpoint, dtype=dtype)


class OriginalReferenceModel:
    """The whole checkpoint in memory, in `dtype`, asked as the original code's evaluation does."""

    def __init__(self, checkpoint: Checkpoint, *, dtype: ReferenceDtype) -> None:
        self._checkpoint = checkpoint
        self._dtype: torch.dtype = getattr(torch, dtype)
        vision: Any = load_vision(checkpoint)
        self._vision = vision.to(self._dtype)
        self._language_model: Any = load_language_model(checkpoint, dtype=self._dtype)
        self._pieces = SentencePieceProcessor(model_file=str(checkpoint.parts.tokenizer / "tokenizer.model"))

    @torch.inference_mode()
    def answer(self, case: Case, *, max_tokens: int) -> GreedyAnswer:
        """Decode the whole file, and generate greedily."""
        pixels = original_pixels(self._checkpoint, self._frames(case), case.medium)
        features = features_of(self._vision, case.medium, pixels.to(self._dtype))
        embeddings = self._embed(prompt_of(case, system=original.SYSTEM), torch.from_numpy(features))
        output = self._language_model.generate(
            inputs_embeds=embeddings,
            attention_mask=torch.ones(embeddings.shape[:2], dtype=torch.long),
            max_new_tokens=max_tokens,
            do_sample=False,
            output_logits=True,
            return_dict_in_generate=True,
        )
        token_ids = output.sequences[0].tolist()
        return GreedyAnswer(
            text=self._pieces.decode([token for token in token_ids if token > 2]),
            features=features,
            token_ids=tuple(token_ids),
            logprobs=[logits[0].float().log_softmax(-1).numpy() for logits in output.logits],
        )

    def _frames(self, case: Case) -> list[np.ndarray]:
        if case.medium == "image":
            with Image.open(case.media) as image:
                return [np.asarray(image.convert("RGB"))]
        num_frames = self._checkpoint.config.num_frames
        return sample_frames(case.media, lambda total: np.linspace(0, total - 1, num_frames, dtype=int))

    def _embed(self, prompt: str, features: torch.Tensor) -> torch.Tensor:
        """The text before and behind the placeholder is tokenized by itself. Shape = (1, positions, hidden)."""
        table = self._language_model.get_input_embeddings()
        before, behind = (self._pieces.encode(text) for text in re.split(f"{VIDEO_TOKEN}|{IMAGE_TOKEN}", prompt))
        begin = self._pieces.bos_id()
        parts = (table(torch.tensor([begin, *before])), features.to(self._dtype), table(torch.tensor(behind)))
        return torch.cat(parts)[None]


def original_pixels(checkpoint: Checkpoint, frames: list[np.ndarray], medium: str) -> torch.Tensor:
    """Frames uint8 RGB of any size as the original's pixels, float32, shape = (frames, 3, 224, 224).

    Nothing is rounded to eight bits between, and no video is mirrored.
    """
    return torch.stack([_pixels(checkpoint, frame, medium) for frame in frames])


def _pixels(checkpoint: Checkpoint, frame: np.ndarray, medium: str) -> torch.Tensor:
    size, padding = original.IMAGE_SIZE, checkpoint.config.conventions.get("image_padding")
    if medium == "image" and padding:
        frame = _pad(frame, tuple(padding))
    height, width = frame.shape[:2]
    short, long = sorted((height, width))
    # As either of its two libraries rounds it.
    resized_long = int(long / short * size) if medium == "video" else int(size * long / short)
    shape = (size, resized_long) if height <= width else (resized_long, size)
    scaled = torch.tensor(frame).permute(2, 0, 1)[None] / 255
    mode = "bilinear" if medium == "video" else "bicubic"
    resized = F.interpolate(scaled, size=shape, mode=mode, align_corners=False)[0]
    top, left = (round((edge - size) / 2) for edge in shape)
    cropped = resized[:, top : top + size, left : left + size]
    mean, std = (torch.tensor(values)[:, None, None] for values in (original.MEAN, original.STD))
    return (cropped - mean) / std


def _pad(frame: np.ndarray, colour: tuple[int, ...]) -> np.ndarray:
    height, width = frame.shape[:2]
    edge = max(height, width)
    square = Image.new("RGB", (edge, edge), colour)
    square.paste(Image.fromarray(frame), ((edge - width) // 2, (edge - height) // 2))
    return np.asarray(square)
