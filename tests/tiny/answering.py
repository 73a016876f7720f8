"""The reference's answers: greedy, in float32, through Hugging Face, in batches."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers import AutoTokenizer, VideoLlavaForConditionalGeneration
from transformers.models.video_llava.image_processing_video_llava import VideoLlavaImageProcessor

MAX_TOKENS = 32
_BATCH_SIZE = 50


@dataclass(frozen=True, eq=False)
class Prompt:
    """One prompt in the product's format, and its media in any size."""

    text: str
    clip: Sequence[Image.Image] | None = None
    picture: Image.Image | None = None


class Answerer:
    """A checkpoint that is ready to answer."""

    def __init__(self, checkpoint: Path) -> None:
        self._model = VideoLlavaForConditionalGeneration.from_pretrained(checkpoint, dtype=torch.float32).eval()
        self._tokenizer = AutoTokenizer.from_pretrained(checkpoint)
        self._processor = VideoLlavaImageProcessor.from_pretrained(checkpoint)

    def answer(self, prompts: Sequence[Prompt]) -> list[str]:
        """The answers, stripped; prompts of one length share a batch, so nothing is padded."""
        groups: dict[tuple[bool, bool, int], list[int]] = defaultdict(list)
        tokens = [self._encode(prompt.text) for prompt in prompts]
        for index, (prompt, ids) in enumerate(zip(prompts, tokens, strict=True)):
            groups[prompt.clip is not None, prompt.picture is not None, len(ids)].append(index)
        answers = [""] * len(prompts)
        for group in groups.values():
            for start in range(0, len(group), _BATCH_SIZE):
                indices = group[start : start + _BATCH_SIZE]
                texts = self._answer_batch([prompts[index] for index in indices], [tokens[index] for index in indices])
                for index, text in zip(indices, texts, strict=True):
                    answers[index] = text
        return answers

    @torch.inference_mode()
    def embed(self, prompts: Sequence[Prompt]) -> tuple[list[torch.Tensor], torch.Tensor]:
        """What the language model gets for each prompt, shape = (tokens, hidden), and its next log probabilities.

        Those have shape = (prompts, vocabulary).
        """
        seen: list[torch.Tensor] = []
        model: Any = self._model
        hook = model.model.language_model.register_forward_pre_hook(
            lambda _module, _args, given: seen.append(given["inputs_embeds"][0]), with_kwargs=True
        )
        try:
            logits = []
            for prompt in prompts:
                ids, media = torch.tensor([self._encode(prompt.text)]), self._media([prompt])
                logits.append(model(input_ids=ids, **media).logits[0, -1])
        finally:
            hook.remove()
        return seen, torch.stack(logits).log_softmax(-1)

    @torch.inference_mode()
    def answer_with(
        self, encode: Callable[[str, np.ndarray], torch.Tensor], prompts: Sequence[Prompt]
    ) -> tuple[torch.Tensor, list[str]]:
        """The next log probabilities, shape = (prompts, vocabulary), and the answers, with features of other encoders.

        `encode` takes "video" or "image" and frames uint8, shape = (1, frames, H, W, 3).
        """
        model: Any = self._model  # its type lacks `generate`
        logits, texts = [], []
        for prompt in prompts:
            ids = torch.tensor([self._encode(prompt.text)])
            embedded = model.get_input_embeddings()(ids)
            for medium, token, images in (
                ("video", model.config.video_token_id, prompt.clip),
                ("image", model.config.image_token_id, [prompt.picture] if prompt.picture else None),
            ):
                if images:
                    embedded[ids == token] = encode(medium, self._frames(images))[0].float()
            logits.append(model(inputs_embeds=embedded).logits[0, -1])
            result = model.generate(inputs_embeds=embedded, max_new_tokens=MAX_TOKENS, do_sample=False)
            texts.append(self._tokenizer.decode(result[0], skip_special_tokens=True).strip())
        return torch.stack(logits).log_softmax(-1), texts

    def _frames(self, images: Iterable[Image.Image]) -> np.ndarray:
        """Resized and cropped, uint8, shape = (1, frames, H, W, 3)."""
        mean, std = (
            torch.tensor(values)[:, None, None] for values in (self._processor.image_mean, self._processor.image_std)
        )
        pixels = (self._pixels(images) * std + mean) / self._processor.rescale_factor
        return pixels.round().to(torch.uint8).movedim(1, -1)[None].numpy()

    def _media(self, prompts: Sequence[Prompt]) -> dict[str, torch.Tensor]:
        """Of prompts that have the same kinds."""
        media = {}
        if prompts[0].clip is not None:
            media["pixel_values_videos"] = torch.stack([self._pixels(prompt.clip or ()) for prompt in prompts])
        if prompts[0].picture is not None:
            media["pixel_values_images"] = self._pixels([prompt.picture for prompt in prompts if prompt.picture])
        return media

    @torch.inference_mode()
    def _answer_batch(self, prompts: list[Prompt], tokens: list[list[int]]) -> list[str]:
        ids, media = torch.tensor(tokens), self._media(prompts)
        model: Any = self._model  # its type lacks `generate`
        options = {"max_new_tokens": MAX_TOKENS, "do_sample": False}
        result = model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), **options, **media)
        texts = self._tokenizer.batch_decode(result[:, ids.shape[1] :], skip_special_tokens=True)
        return [text.strip() for text in texts]

    def _encode(self, text: str) -> list[int]:
        """Tokens with each placeholder repeated, one for each feature."""
        config = self._model.config
        counts = {config.image_token_id: config.image_seq_length, config.video_token_id: config.video_seq_length}
        return [token for one in self._tokenizer(text)["input_ids"] for token in [one] * counts.get(one, 1)]

    def _pixels(self, frames: Iterable[Image.Image]) -> torch.Tensor:
        """Resized, cropped and normalised, shape = (frames, 3, height, width)."""
        return self._processor(images=list(frames), return_tensors="pt")["pixel_values_images"]
