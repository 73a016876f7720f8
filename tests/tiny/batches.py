"""Batches for the language model: several conversations about the same media share one encoding of them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from .conversations import Conversation, draw_conversation
from .model import NUM_PATCHES
from .pairs import Drawn
from .questions import REFUSAL, Question
from .scenes import NUM_FRAMES
from .stages import Chance

_TURNS, _TURN_WEIGHTS = (1, 2, 3), (6, 2, 2)
_BLIND_CHANCE = 0.3
_HIDDEN = -1e4


@dataclass(frozen=True)
class Packed:
    """Rows of tokens: the media first, then conversations that see the media and themselves, not each other.

    Attributes:
        ids: shape = (rows, tokens); placeholders are repeated, one token for each feature.
        places: Position of each token as if its conversation stood alone, shape = (rows, tokens).
        mask: What is added to the attention's scores, shape = (rows, 1, tokens, tokens).
        learned: Whether the token is part of an answer, shape = (rows, tokens).
        prefix: Number of tokens up to the end of the media, the same in all rows.
    """

    ids: torch.Tensor
    places: torch.Tensor
    mask: torch.Tensor
    learned: torch.Tensor
    prefix: int


@dataclass(frozen=True)
class Packer:
    """Makes rows of a fixed number of text tokens after the media."""

    tokenizer: Any  # PreTrainedTokenizerBase, whose types allow for lists everywhere
    num_text_tokens: int

    def pack(self, now: Chance, drawn: Sequence[tuple[Drawn | None, Drawn | None]]) -> Packed:
        """One row for each pair of clip and picture; all pairs have the same kinds of media."""
        return _stack([self._make_row(now, clip, picture) for clip, picture in drawn])

    def pack_media(self, drawn: Sequence[tuple[Drawn | None, Drawn | None]]) -> Packed:
        """Rows without any text after the media."""
        return _stack(
            [_Row(self._encode_media(clip, picture), 0, self.tokenizer.pad_token_id) for clip, picture in drawn]
        )

    def _make_row(self, now: Chance, clip: Drawn | None, picture: Drawn | None) -> "_Row":
        row = _Row(self._encode_media(clip, picture), self.num_text_tokens, self.tokenizer.pad_token_id)
        if now.python.random() < _BLIND_CHANCE:
            row.add(*self._encode_blind(now, clip, picture), sees_media=False)
        fits = True
        while fits:
            num_turns = now.python.choices(_TURNS, _TURN_WEIGHTS)[0]
            conversation = draw_conversation(now.python, clip=clip, picture=picture, num_turns=num_turns)
            fits = row.add(*self._encode(conversation)[1:], sees_media=True)
        return row

    def _encode_media(self, clip: Drawn | None, picture: Drawn | None) -> list[int]:
        return self._encode(Conversation(_media(clip, picture), (Question("", "?", ""),)))[0]

    def _encode_blind(self, now: Chance, clip: Drawn | None, picture: Drawn | None) -> tuple[list[int], list[bool]]:
        """A question without media, which is refused."""
        asked = draw_conversation(now.python, clip=clip, picture=picture).turns[0]
        return self._encode(Conversation("", (Question("refusal", asked.text, REFUSAL),)))[1:]

    def _encode(self, conversation: Conversation) -> tuple[list[int], list[int], list[bool]]:
        """The media's tokens, all further tokens, and which of those are learned."""
        encoded = self.tokenizer(conversation.text, return_offsets_mapping=True)
        ids, starts = encoded["input_ids"], [start for start, _ in encoded["offset_mapping"]]
        learned = _learned(conversation, starts)
        end = 1 + ids.index(self._newline) if conversation.media else 0
        if conversation.media.count("\n") == 2:
            end += 1 + ids[end:].index(self._newline)
        return [token for one in ids[:end] for token in self._repeat(one)], ids[end:], learned[end:]

    @property
    def _newline(self) -> int:
        return self.tokenizer.convert_tokens_to_ids("<0x0A>")

    def _repeat(self, token: int) -> list[int]:
        counts = {"<image>": NUM_PATCHES, "<video>": NUM_FRAMES * (NUM_PATCHES + 1)}
        return [token] * counts.get(self.tokenizer.convert_ids_to_tokens(token), 1)


class _Row:
    """One row while it is being filled."""

    def __init__(self, media: list[int], num_text_tokens: int, pad: int) -> None:
        self.prefix = len(media)
        self._length, self._pad = len(media) + num_text_tokens, pad
        self._ids, self._places = list(media), list(range(len(media)))
        # 0 for the media, n for the n-th conversation, -n for one that does not see them.
        self._parts, self._learned = [0] * len(media), [False] * len(media)
        self._count = 0

    def add(self, ids: list[int], learned: list[bool], *, sees_media: bool) -> bool:
        """Whether the conversation still had room."""
        if len(self._ids) + len(ids) > self._length:
            return False
        self._count += 1
        start = self.prefix if sees_media else 0
        self._ids += ids
        self._places += range(start, start + len(ids))
        self._parts += [self._count if sees_media else -self._count] * len(ids)
        self._learned += learned
        return True

    def columns(self) -> tuple[list[int], list[int], list[int], list[bool]]:
        """Ids, places, parts and what is learned, filled up."""
        missing = self._length - len(self._ids)
        return (
            self._ids + [self._pad] * missing,
            self._places + [0] * missing,
            self._parts + [self._count + 1] * missing,
            self._learned + [False] * missing,
        )


def _stack(rows: Sequence[_Row]) -> Packed:
    columns = zip(*(row.columns() for row in rows), strict=True)
    ids, places, parts, learned = (torch.tensor(column) for column in columns)
    return Packed(ids, places, _mask(parts), learned, rows[0].prefix)


def _media(clip: Drawn | None, picture: Drawn | None) -> str:
    return "<image>\n" * (picture is not None) + "<video>\n" * (clip is not None)


def _learned(conversation: Conversation, starts: list[int]) -> list[bool]:
    """Which of the tokens that begin at `starts` are of answers; the tokenizer adds one in front of all."""
    flags = [is_answer for text, is_answer in conversation.pieces for _ in text]
    return [False] + [flags[start] for start in starts[1:]]


def _mask(parts: torch.Tensor) -> torch.Tensor:
    """Zero where a token may look, shape = (rows, 1, tokens, tokens)."""
    asking, asked = parts[:, :, None], parts[:, None, :]
    earlier = torch.ones(parts.shape[1], parts.shape[1], dtype=torch.bool).tril()
    allowed = earlier & ((asking == asked) | ((asked == 0) & (asking > 0)))
    return torch.zeros(allowed.shape).masked_fill(~allowed, _HIDDEN)[:, None]
