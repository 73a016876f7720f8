"""A tokenizer whose pieces are the words of this small world."""

from collections.abc import Iterable

from transformers import PreTrainedTokenizerBase
from video_llava_export.llama_tokenizer import train_tokenizer

_NUM_PIECES = 760
_LETTERS = [chr(code) for code in range(33, 127)]


def make_tokenizer(texts: Iterable[str]) -> PreTrainedTokenizerBase:
    """Llama's kind, with byte fallback; every printable ASCII character is a piece."""
    return train_tokenizer(texts, num_pieces=_NUM_PIECES, alphabet=_LETTERS)
