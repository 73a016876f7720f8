"""Text and features become one sequence of embeddings, position by position as the reference builds it.

The tokenizer sees the caller's text as it is. Each placeholder token is replaced by the features of its medium,
every other token by its row of the model's own embedding table. The engine gets embeddings alone: with prompts that
mix token ids and embeddings, it can reuse positions of another request's cache (vLLM issue 56655).
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from .errors import InvalidArgument
from .features import Features
from .limits import Limits
from .manifest import LANGUAGE_MODEL, Manifest
from .prompt_checks import PromptChecker
from .prompt_tensor import Parts, PromptTensor, Span


@dataclass(frozen=True)
class Prompt:
    """What the engine continues.

    `token_ids` has one id per position, a placeholder's repeated over its medium: penalties count them. A placeholder
    beyond the vocabulary, which the engine does not take, is 0 (`<unk>`) there.
    `embeddings` [len(token_ids), hidden_size], in the engine's dtype.
    """

    token_ids: list[int]
    embeddings: PromptTensor


class PromptBuilder:
    """Builds prompts for one checkpoint; safe to use from one thread at a time."""

    def __init__(self, model_folder: Path, *, dtype: torch.dtype, max_model_len: int) -> None:
        self._manifest = Manifest.read(model_folder)
        self._dtype = dtype
        self._checker = PromptChecker(Limits.of(self._manifest, max_model_len=max_model_len), model_folder)
        self._language_model = str(model_folder / LANGUAGE_MODEL)

    def build(self, text: str, *, video_features: Features | None, image_features: Features | None) -> Prompt:
        """Tokenize `text` and put the features in place of its placeholders.

        The rows of the features must be those of the media that `text` names. Raises InvalidArgument.
        """
        ids = self._checker.tokenize(text)
        media = self._media("video", ids, video_features) | self._media("image", ids, image_features)
        num_text = sum(token not in media for token in ids)
        token_ids, spans = _place(ids, media, self._manifest.vocab_size)
        self._checker.check_length(num_text=num_text, num_media=len(token_ids) - num_text)
        parts = Parts(self._language_model, np.array(token_ids, np.int32), tuple(spans), self._dtype)
        return Prompt(token_ids, PromptTensor.of(parts, self._manifest.hidden_size))

    def _media(self, kind: str, ids: list[int], features: Features | None) -> dict[int, tuple[int, Features]]:
        """Return, by their placeholder, the rows of a medium and the features of all, if there are any."""
        manifest = self._manifest
        tokens = manifest.tokens_per_video if kind == "video" else manifest.tokens_per_image
        token = manifest.video_token_id if kind == "video" else manifest.image_token_id
        placeholder = manifest.video_token if kind == "video" else manifest.image_token
        expected = [ids.count(token) * tokens, manifest.hidden_size]
        shape = [features.reference.rows, features.reference.hidden] if features else [0, manifest.hidden_size]
        if shape != expected:
            raise InvalidArgument(
                f"text_input has {ids.count(token)} {placeholder} placeholder(s) and {kind}_features is {shape}, "
                f"expected {expected}: {tokens} rows for each placeholder"
            )
        if features is None:
            return {}
        # One value that is not a number would poison the engine's step, hence other requests' too.
        if not torch.tensor(features.reference.largest).to(self._dtype).isfinite():
            raise InvalidArgument(f"{kind}_features holds values that are not finite in {self._dtype}")
        return {token: (tokens, features)}


def _place(ids: list[int], media: dict[int, tuple[int, Features]], vocab_size: int) -> tuple[list[int], list[Span]]:
    """Return one id for each position, and where the features stand."""
    token_ids: list[int] = []
    spans: list[Span] = []
    rows_used = dict.fromkeys(media, 0)
    for token in ids:
        if token in media:
            num_rows, features = media[token]
            start = len(token_ids)
            spans.append(Span(start, start + num_rows, rows_used[token], features))
            rows_used[token] += num_rows
            token_ids += [token if token < vocab_size else 0] * num_rows
        else:
            token_ids.append(token)
    return token_ids, spans
