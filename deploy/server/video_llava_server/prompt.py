"""Text and features become one sequence of embeddings, position by position as the reference builds it.

The tokenizer sees the caller's text as it is. Each placeholder token is replaced by the features of its medium,
every other token by its row of the model's own embedding table. The engine gets embeddings alone: with prompts that
mix token ids and embeddings, it can reuse positions of another request's cache (vLLM issue 56655).
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open

from .errors import InvalidArgument
from .limits import Limits
from .manifest import LANGUAGE_MODEL, Manifest
from .prompt_checks import PromptChecker

_EMBEDDING_TABLE = "model.embed_tokens.weight"
EmptyTensor = Callable[..., torch.Tensor]
"""As `torch.empty`, of a shape and `dtype`."""
_DTYPES = (np.float16, np.float32)
_BLOCK_ROWS = 32


@dataclass(frozen=True)
class Prompt:
    """What the engine continues.

    `token_ids` has one id per position, a placeholder's repeated over its medium: penalties count them.
    `embeddings` [len(token_ids), hidden_size], in the engine's dtype.
    """

    token_ids: list[int]
    embeddings: torch.Tensor


class PromptBuilder:
    """Builds prompts for one checkpoint; safe to use from one thread at a time."""

    def __init__(
        self, model_folder: Path, *, dtype: torch.dtype, max_model_len: int, empty: EmptyTensor = torch.empty
    ) -> None:
        """`empty` makes the tensors of embeddings."""
        self._manifest = Manifest.read(model_folder)
        self._dtype, self._empty = dtype, empty
        self._checker = PromptChecker(Limits.of(self._manifest, max_model_len=max_model_len), model_folder)
        self._table = load_embedding_table(model_folder / LANGUAGE_MODEL)

    def build(self, text: str, *, video_features: np.ndarray | None, image_features: np.ndarray | None) -> Prompt:
        """Tokenize `text` and put the features in place of its placeholders.

        Features are float [rows, hidden_size]; rows must be those of the media that `text` names. Where it names
        none, features may be absent or zeros: an encoder without frames still gives rows of them.
        Raises InvalidArgument.
        """
        ids = self._checker.tokenize(text)
        manifest = self._manifest
        media = {
            manifest.video_token_id: self._media("video", ids.count(manifest.video_token_id), video_features),
            manifest.image_token_id: self._media("image", ids.count(manifest.image_token_id), image_features),
        }
        num_media = sum(len(rows) for run in media.values() for rows in run)
        num_text = len(ids) - sum(map(len, media.values()))
        self._checker.check_length(num_text=num_text, num_media=num_media)
        embeddings = self._empty((num_text + num_media, manifest.hidden_size), dtype=self._dtype)
        return Prompt(self._fill(embeddings, ids, {token: iter(run) for token, run in media.items()}), embeddings)

    def _media(self, kind: str, count: int, features: np.ndarray | None) -> tuple[torch.Tensor, ...]:
        """Split the features of one kind of medium into `count` runs [tokens, hidden_size]."""
        if features is not None and features.dtype not in _DTYPES:
            raise InvalidArgument(f"{kind}_features is {features.dtype}, expected float16 or float32")
        if count == 0 and (features is None or not features.any()):
            return ()
        manifest = self._manifest
        tokens = manifest.tokens_per_video if kind == "video" else manifest.tokens_per_image
        placeholder = manifest.video_token if kind == "video" else manifest.image_token
        shape = [0, manifest.hidden_size] if features is None else list(features.shape)
        if features is None or shape != [count * tokens, manifest.hidden_size]:
            raise InvalidArgument(
                f"text_input has {count} {placeholder} placeholder(s) and {kind}_features is {shape}, "
                f"expected {[count * tokens, manifest.hidden_size]}: {tokens} rows for each placeholder"
            )
        return torch.from_numpy(features).split(tokens)

    def _fill(self, embeddings: torch.Tensor, ids: list[int], media: dict[int, Iterator[torch.Tensor]]) -> list[int]:
        """Write the prompt's rows; return its token ids, one for each."""
        token_ids: list[int] = []
        start = 0
        for end, token in enumerate(ids):
            if token in media:
                rows = next(media[token])
                self._append(embeddings, token_ids, ids[start:end])
                target = embeddings[len(token_ids) : len(token_ids) + len(rows)]
                copy_rows(target, rows)
                # One value that is not a number would poison the engine's step, hence other requests' too. The extremes
                # tell: 1.5 ms for a video of the 7B, where a sum in float64 takes 50.
                if not torch.stack(torch.aminmax(target)).isfinite().all():
                    kind = "video" if token == self._manifest.video_token_id else "image"
                    raise InvalidArgument(f"{kind}_features holds values that are not finite in {self._dtype}")
                token_ids += [token] * len(rows)
                start = end + 1
        self._append(embeddings, token_ids, ids[start:])
        return token_ids

    def _append(self, embeddings: torch.Tensor, token_ids: list[int], text: list[int]) -> None:
        embeddings[len(token_ids) : len(token_ids) + len(text)] = self._table[text]
        token_ids += text


def copy_rows(target: torch.Tensor, rows: torch.Tensor) -> None:
    """Copy `rows` into `target`, shape = (rows, hidden_size), converting them to its dtype."""
    if rows.dtype is not torch.float16 or target.dtype is not torch.bfloat16:
        target.copy_(rows)
        return
    # Between these two torch converts number by number, 9 ms for a video of the 7B. Through float32, in blocks that
    # stay in the core's cache, it is 3 ms.
    for part, block in zip(target.split(_BLOCK_ROWS), rows.split(_BLOCK_ROWS), strict=True):
        part.copy_(block.float())


def load_embedding_table(language_model: Path) -> torch.Tensor:
    """Map the embedding table [vocab_size, hidden_size] of a Llama checkpoint; pages are read as rows are used."""
    for shard in sorted(language_model.glob("*.safetensors")):
        with safe_open(shard, framework="pt") as tensors:
            if _EMBEDDING_TABLE in tensors.keys():  # noqa: SIM118 (not a dict)
                return tensors.get_tensor(_EMBEDDING_TABLE)
    raise FileNotFoundError(
        f"no tensor {_EMBEDDING_TABLE} in {language_model}/*.safetensors: export the checkpoint again"
    )
