"""The reference's side of a comparison: Hugging Face's model, and frames as its model card takes them."""

import warnings
from enum import StrEnum
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch
from PIL import Image
from transformers import AutoTokenizer, VideoLlavaForConditionalGeneration
from transformers.models.video_llava.image_processing_video_llava import VideoLlavaImageProcessor

from .checkpoint import Checkpoint
from .parity import Case, SideAnswer
from .parity_server import prompt_of
from .tokens import IMAGE_TOKEN, VIDEO_TOKEN


class ReferenceDtype(StrEnum):
    """What the reference computes in."""

    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"
    FLOAT16 = "float16"


class ReferenceSide:
    """The whole checkpoint in memory, in `dtype`."""

    def __init__(self, checkpoint: Checkpoint, *, dtype: ReferenceDtype) -> None:
        self._config = checkpoint.config
        with warnings.catch_warnings(action="ignore"):  # what transformers says of itself
            model: Any = VideoLlavaForConditionalGeneration.from_pretrained(
                checkpoint.folder, dtype=getattr(torch, dtype)
            )
            self._tokenizer = AutoTokenizer.from_pretrained(checkpoint.folder)
            self._processor = VideoLlavaImageProcessor.from_pretrained(checkpoint.folder)
        self._model = model.eval()

    @torch.inference_mode()
    def answer(self, case: Case, *, max_tokens: int) -> SideAnswer:
        """Decode the whole file, and generate greedily."""
        pixels = self._pixels(case)
        inputs = self._tokenizer(self._expand(prompt_of(case)), return_tensors="pt")
        ids = inputs["input_ids"]
        output = self._model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            **{f"pixel_values_{case.medium}s": pixels},
            max_new_tokens=max_tokens,
            do_sample=False,
            output_logits=True,
            return_dict_in_generate=True,
        )
        token_ids = output.sequences[0, ids.shape[1] :].tolist()
        return SideAnswer(
            text=self._tokenizer.decode(token_ids, skip_special_tokens=True),
            features=self._features(case, pixels),
            token_ids=tuple(token_ids),
            logprobs=[logits[0].float().log_softmax(-1).numpy() for logits in output.logits],
        )

    def _pixels(self, case: Case) -> torch.Tensor:
        if case.medium == "video":
            frames: list[Any] = sample_like_the_model_card(case.media, self._config.num_frames)
        else:
            with Image.open(case.media) as image:
                frames = [image.convert("RGB")]
        pixels = self._processor(images=frames, return_tensors="pt")["pixel_values_images"].to(self._model.dtype)
        return pixels[None] if case.medium == "video" else pixels

    def _expand(self, prompt: str) -> str:
        """Each placeholder as often as its medium has positions."""
        video_tokens = self._config.num_frames * self._config.tokens_per_frame
        for token, count in ((IMAGE_TOKEN, self._config.tokens_per_image), (VIDEO_TOKEN, video_tokens)):
            prompt = prompt.replace(token, token * count)
        return prompt

    def _features(self, case: Case, pixels: torch.Tensor) -> np.ndarray:
        model = self._model.model
        if case.medium == "video":
            features: Any = model.get_video_features(pixel_values_videos=pixels)
        else:
            features = model.get_image_features(pixel_values_images=pixels)
        tensor = getattr(features, "pooler_output", features)
        return tensor.reshape(-1, tensor.shape[-1]).float().numpy()


def sample_like_the_model_card(path: Path, num_frames: int) -> list[np.ndarray]:
    """Decode every frame twice, to count and to pick: uint8 RGB of the file's own size."""
    with av.open(str(path)) as container:
        total = sum(1 for _ in container.decode(video=0))
    wanted = np.arange(0, total, total / num_frames).astype(int).tolist()
    with av.open(str(path)) as container:
        found = {
            index: frame.to_ndarray(format="rgb24")
            for index, frame in enumerate(container.decode(video=0))
            if index in wanted
        }
    return [found[index] for index in wanted]
