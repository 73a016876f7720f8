"""A small tokenizer of Llama's kind, for checkpoints that the project makes itself."""

import json
from collections.abc import Iterable, Sequence

from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import LlamaTokenizerFast, PreTrainedTokenizerBase

from .tokens import IMAGE_TOKEN, VIDEO_TOKEN

UNKNOWN, BEGIN, END, PAD = "<unk>", "<s>", "</s>", "<pad>"


def train_tokenizer(texts: Iterable[str], *, num_pieces: int, alphabet: Sequence[str] = ()) -> PreTrainedTokenizerBase:
    """Ids as in the 7B: `<unk> <s> </s>`, 256 bytes, pieces up to `num_pieces` in all, `<image> <video> <pad>`.

    `alphabet` are characters that are pieces even if no text has them.
    """
    fixed = [UNKNOWN, BEGIN, END, *(f"<0x{byte:02X}>" for byte in range(256))]
    pieces, merges = _train(texts, num_pieces - len(fixed), alphabet)
    tokenizer = LlamaTokenizerFast(
        vocab={token: index for index, token in enumerate(fixed + pieces)},
        merges=merges,
        unk_token=UNKNOWN,
        bos_token=BEGIN,
        eos_token=END,
        add_bos_token=True,
    )
    tokenizer.add_special_tokens({"additional_special_tokens": [IMAGE_TOKEN, VIDEO_TOKEN]})
    tokenizer.add_special_tokens({"pad_token": PAD})
    return tokenizer


def _train(texts: Iterable[str], num_pieces: int, alphabet: Sequence[str]) -> tuple[list[str], list[tuple[str, str]]]:
    """Byte-pair pieces in the order of their ids, and the merges that make them."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Metaspace(prepend_scheme="first"), pre_tokenizers.Punctuation()]
    )
    trainer = trainers.BpeTrainer(vocab_size=num_pieces, initial_alphabet=list(alphabet), show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    model = json.loads(tokenizer.to_str())["model"]
    return sorted(model["vocab"], key=model["vocab"].__getitem__), [(left, right) for left, right in model["merges"]]
