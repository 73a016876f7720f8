"""Text and features become one sequence of embeddings, position by position as the reference builds it.

The tokenizer sees the caller's text as it is. Each placeholder token is replaced by the features of its medium,
every other token by its row of the model's own embedding table. The engine gets embeddings alone: with prompts that
mix token ids and embeddings, it can reuse positions of another request's cache (vLLM issue 56655).
"""

from collections.abc import Iterator
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

    def __init__(self, model_folder: Path, *, dtype: torch.dtype, max_model_len: int) -> None:
        self._manifest = Manifest.read(model_folder)
        self._dtype = dtype
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
        self._checker.check_length(num_text=len(ids) - sum(map(len, media.values())), num_media=num_media)
        return self._splice(ids, {token: iter(run) for token, run in media.items()})

    def _media(self, kind: str, count: int, features: np.ndarray | None) -> tuple[torch.Tensor, ...]:
        """Split the features of one kind of medium into `count` runs [tokens, hidden_size]."""
        if features is not None and features.dtype != np.float32:
            raise InvalidArgument(f"{kind}_features is {features.dtype}, expected float32")
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
        rows = torch.from_numpy(features).to(self._dtype)
        # One value that is not a number would poison the engine's step, hence other requests' too. The extremes tell:
        # 1 ms for a video of the 7B, where a sum in float64 takes 50.
        if rows.numel() and not torch.stack(torch.aminmax(rows)).isfinite().all():
            raise InvalidArgument(f"{kind}_features holds values that are not finite in {self._dtype}")
        return rows.split(tokens)

    def _splice(self, ids: list[int], media: dict[int, Iterator[torch.Tensor]]) -> Prompt:
        token_ids: list[int] = []
        runs: list[torch.Tensor] = []
        start = 0
        for end, token in enumerate(ids):
            if token in media:
                features = next(media[token])
                runs += [self._embed(ids[start:end]), features]
                token_ids += [*ids[start:end], *[token] * len(features)]
                start = end + 1
        return Prompt([*token_ids, *ids[start:]], torch.cat([*runs, self._embed(ids[start:])]))

    def _embed(self, ids: list[int]) -> torch.Tensor:
        return self._table[ids].to(self._dtype)


def load_embedding_table(language_model: Path) -> torch.Tensor:
    """Map the embedding table [vocab_size, hidden_size] of a Llama checkpoint; pages are read as rows are used."""
    for shard in sorted(language_model.glob("*.safetensors")):
        with safe_open(shard, framework="pt") as tensors:
            if _EMBEDDING_TABLE in tensors.keys():  # noqa: SIM118 (not a dict)
                return tensors.get_tensor(_EMBEDDING_TABLE)
    raise FileNotFoundError(
        f"no tensor {_EMBEDDING_TABLE} in {language_model}/*.safetensors: export the checkpoint again"
    )
