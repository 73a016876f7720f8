"""Batches for the language model: several conversations about the same media share their features."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from .conversations import Conversation, draw_conversation, placeholders
from .model import CONFIG
from .pairs import Drawn
from .questions import REFUSAL, Question

_NUM_TURNS, _TURN_WEIGHTS = (1, 2, 3), (6, 2, 2)
# How many rows have a question about no media, which is refused.
_TEXT_ONLY_FRACTION = 0.3
_HIDDEN = -1e4
# The part that padding belongs to; it is no conversation's.
_PADDING = 1000

_Media = tuple[Drawn | None, Drawn | None]
"""A clip and a picture."""


@dataclass(frozen=True)
class Packed:
    """Rows of tokens: the media, then conversations that attend to the media and to themselves, not to each other.

    Attributes:
        ids: shape = (rows, tokens); each placeholder is repeated, one token for each feature.
        positions: Position of each token in its own conversation, shape = (rows, tokens).
        mask: Added to the scores of the attention, shape = (rows, 1, tokens, tokens).
        learned: Whether the token belongs to an answer, shape = (rows, tokens).
        prefix: Number of tokens up to the end of the media, the same in all rows.
    """

    ids: torch.Tensor
    positions: torch.Tensor
    mask: torch.Tensor
    learned: torch.Tensor
    prefix: int


@dataclass(frozen=True)
class Packer:
    """Makes rows of a fixed number of text tokens after the media."""

    tokenizer: Any  # PreTrainedTokenizerBase, whose types allow for lists everywhere
    num_text_tokens: int

    def pack(self, rng: random.Random, media: Sequence[_Media]) -> Packed:
        """One row for each clip, picture or clip with a picture; all rows have the same kinds of media."""
        return _stack([self._make_row(rng, *one) for one in media])

    def pack_media(self, media: Sequence[_Media]) -> Packed:
        """Rows without any text after the media."""
        return _stack([_Row(self._encode_media(*one), 0, self.tokenizer.pad_token_id) for one in media])

    def _make_row(self, rng: random.Random, clip: Drawn | None, picture: Drawn | None) -> "_Row":
        row = _Row(self._encode_media(clip, picture), self.num_text_tokens, self.tokenizer.pad_token_id)
        if rng.random() < _TEXT_ONLY_FRACTION:
            asked = draw_conversation(rng, clip=clip, picture=picture).turns[0]
            refused = Conversation("", (Question("refusal", asked.text, REFUSAL),))
            row.add(*self._encode(refused)[1:], sees_media=False)
        fits = True
        while fits:
            num_turns = rng.choices(_NUM_TURNS, _TURN_WEIGHTS)[0]
            conversation = draw_conversation(rng, clip=clip, picture=picture, num_turns=num_turns)
            fits = row.add(*self._encode(conversation)[1:], sees_media=True)
        return row

    def _encode_media(self, clip: Drawn | None, picture: Drawn | None) -> list[int]:
        return self._encode(Conversation(placeholders(clip, picture), (Question("", "?", ""),)))[0]

    def _encode(self, conversation: Conversation) -> tuple[list[int], list[int], list[bool]]:
        """The tokens of the media, all further tokens, and which of those are learned."""
        encoded = self.tokenizer(conversation.text, return_offsets_mapping=True)
        ids, starts = encoded["input_ids"], [start for start, _ in encoded["offset_mapping"]]
        is_answer = [learned for text, learned in conversation.pieces for _ in text]
        learned = [False] + [is_answer[start] for start in starts[1:]]  # the first token is <s>
        newline = self.tokenizer.convert_tokens_to_ids("<0x0A>")
        end = 0
        for _ in range(conversation.media.count("\n")):
            end = ids.index(newline, end) + 1
        counts = {CONFIG.image_token_id: CONFIG.image_seq_length, CONFIG.video_token_id: CONFIG.video_seq_length}
        return [token for one in ids[:end] for token in [one] * counts.get(one, 1)], ids[end:], learned[end:]


class _Row:
    """One row while it is being filled."""

    def __init__(self, media: list[int], num_text_tokens: int, pad: int) -> None:
        self.prefix = self._end = len(media)
        self.ids = torch.tensor(media + [pad] * num_text_tokens)
        self.positions = torch.tensor([*range(len(media))] + [0] * num_text_tokens)
        # 0 for the media, n for the n-th conversation, -n if it does not see them.
        self.parts = torch.tensor([0] * len(media) + [_PADDING] * num_text_tokens)
        self.learned = torch.zeros(len(self.ids), dtype=torch.bool)
        self._num_parts = 0

    def add(self, ids: list[int], learned: list[bool], *, sees_media: bool) -> bool:
        """Add a conversation; return whether there was room for it."""
        where = slice(self._end, self._end + len(ids))
        if where.stop > len(self.ids):
            return False
        start = self.prefix if sees_media else 0
        self._end, self._num_parts = where.stop, self._num_parts + 1
        self.ids[where] = torch.tensor(ids)
        self.positions[where] = torch.arange(start, start + len(ids))
        self.parts[where] = self._num_parts if sees_media else -self._num_parts
        self.learned[where] = torch.tensor(learned)
        return True


def _stack(rows: Sequence[_Row]) -> Packed:
    ids, positions, parts, learned = (
        torch.stack([getattr(row, name) for row in rows]) for name in ("ids", "positions", "parts", "learned")
    )
    return Packed(ids, positions, _mask(parts), learned, rows[0].prefix)


def _mask(parts: torch.Tensor) -> torch.Tensor:
    """Zero where a token attends, shape = (rows, 1, tokens, tokens)."""
    query, key = parts[:, :, None], parts[:, None, :]
    earlier = torch.ones(parts.shape[1], parts.shape[1], dtype=torch.bool).tril()
    allowed = earlier & ((query == key) | ((key == 0) & (query > 0)))
    return torch.zeros(allowed.shape).masked_fill(~allowed, _HIDDEN)[:, None]
