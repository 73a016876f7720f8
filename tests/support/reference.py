"""The reference: Hugging Face's own model, image processor and greedy search, in this process, float32."""

import json
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch
from peft import PeftModel
from transformers import AutoTokenizer, VideoLlavaForConditionalGeneration
from transformers.models.video_llava.image_processing_video_llava import VideoLlavaImageProcessor

NUM_FRAMES = 8
# More threads than cores that are free wait for each other, busily; engines run at the same time.
torch.set_num_threads(1)


@dataclass(frozen=True)
class ReferenceAnswer:
    """Token ids with the end token if there is one, and whether it ended by itself."""

    token_ids: list[int]
    text: str
    finish_reason: str
    smallest_gap: float
    """Between the best and the second logit of any step: float noise beyond it may change the answer."""


class Reference:
    """Answers prompts the way the model card does."""

    def __init__(self, checkpoint: Path, *, adapter: Path | None = None) -> None:
        """`adapter` is applied by PEFT itself."""
        with warnings.catch_warnings(action="ignore"):
            model: Any = VideoLlavaForConditionalGeneration.from_pretrained(checkpoint, dtype=torch.float32)
            self._model = (PeftModel.from_pretrained(model, str(adapter)) if adapter else model).eval()
            self._tokenizer = AutoTokenizer.from_pretrained(checkpoint)
            self._processor = VideoLlavaImageProcessor.from_pretrained(checkpoint)
        config = json.loads((checkpoint / "config.json").read_text(encoding="utf-8"))
        self._lengths = {"<image>": config["image_seq_length"], "<video>": config["video_seq_length"]}

    @torch.no_grad()
    def answer(
        self, prompt: str, *, videos: Sequence[np.ndarray] = (), images: Sequence[np.ndarray] = (), **generate: Any
    ) -> ReferenceAnswer:
        """Videos are uint8 [8, H, W, 3], images uint8 [H, W, 3], of any size; `generate` goes to the model's."""
        for placeholder, length in self._lengths.items():
            prompt = prompt.replace(placeholder, placeholder * length)
        inputs = self._tokenizer(prompt, return_tensors="pt")
        if videos:
            pixels = [self._pixels(list(video)) for video in videos]
            inputs["pixel_values_videos"] = torch.stack(pixels)
        if images:
            inputs["pixel_values_images"] = self._pixels(list(images))
        inputs.pop("token_type_ids", None)
        model: Any = self._model
        output = model.generate(**inputs, do_sample=False, **generate, output_logits=True, return_dict_in_generate=True)
        ids = output.sequences[0, inputs["input_ids"].shape[1] :].tolist()
        top = torch.stack(output.logits).topk(2).values
        ended = ids[-1] == self._tokenizer.eos_token_id
        return ReferenceAnswer(
            token_ids=ids,
            text=self._tokenizer.decode(ids, skip_special_tokens=True),
            finish_reason="stop" if ended else "length",
            smallest_gap=float((top[..., 0] - top[..., 1]).min()),
        )

    def _pixels(self, frames: list[np.ndarray]) -> torch.Tensor:
        return self._processor(images=frames, return_tensors="pt")["pixel_values_images"]


def sample_like_the_model_card(path: Path) -> np.ndarray:
    """Decode every frame, then pick eight: uint8 [8, H, W, 3] in the file's own size."""
    with av.open(str(path)) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    return np.stack([frames[i] for i in np.arange(0, len(frames), len(frames) / NUM_FRAMES).astype(int)])
