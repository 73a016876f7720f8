"""The tokenizer of the checkpoint, checked and written beside the language model's weights."""

import re
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer
from transformers import AutoTokenizer, PreTrainedTokenizerBase
from video_llava_server.manifest import FileFacts

from . import sentencepiece_tokenizer
from .config import ModelConfig
from .errors import CheckpointError, VerificationError
from .files import facts_of
from .sentencepiece_tokenizer import piece_ids, read_sentencepiece

FILES = ("tokenizer.json", "tokenizer.model")
IMAGE_TOKEN, VIDEO_TOKEN = "<image>", "<video>"

# What the server tokenises: one turn, two turns, several media, and text outside of ASCII.
PROBES = (
    "USER: <video>\nWhat is happening? ASSISTANT:",
    "USER: <video>\nWhat? ASSISTANT: A dog runs.</s>USER: And then? ASSISTANT:",
    "USER: <image><image>\n<video>\nCompare  them.\n\nUSER:\tnow ASSISTANT:",
    "USER: Où est le café? 何が起きていますか。 🚲👩‍🚀 ASSISTANT:",
)


def load_tokenizer(source: Path, config: ModelConfig) -> PreTrainedTokenizerBase:
    """The checkpoint's tokenizer; `CheckpointError` unless both placeholders have the ids of its config."""
    tokenizer = _load_original(source) if config.is_original else _load(source, config)
    vocabulary = tokenizer.get_vocab()
    for token, expected in ((IMAGE_TOKEN, config.image_token_id), (VIDEO_TOKEN, config.video_token_id)):
        if vocabulary.get(token) != expected:
            raise CheckpointError(
                f"the tokenizer gives {token} the id {vocabulary.get(token)}, config.json {expected}; "
                "take both from the same checkpoint"
            )
    return tokenizer


def _load_original(source: Path) -> PreTrainedTokenizerBase:
    """`tokenizer.model` with the placeholders behind its last token, compared with sentencepiece itself."""
    tokenizer = read_sentencepiece(source / sentencepiece_tokenizer.NAME)
    for text in PROBES:
        for part in re.split("<[^ ]*>", text):
            if tokenizer(part)["input_ids"] != piece_ids(source / sentencepiece_tokenizer.NAME, part):
                raise CheckpointError(
                    f"{source / sentencepiece_tokenizer.NAME} cannot be converted: {part!r} would have other tokens"
                )
    tokenizer.add_special_tokens({"additional_special_tokens": [IMAGE_TOKEN, VIDEO_TOKEN]})
    return tokenizer


def _load(source: Path, config: ModelConfig) -> PreTrainedTokenizerBase:
    if not any((source / name).is_file() for name in FILES):  # transformers would make up an empty one
        raise CheckpointError(
            f"{source} has no readable tokenizer ({' or '.join(FILES)}); download the whole checkpoint, or name the "
            "model that it was trained from: --base"
        )
    try:
        tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=False)
    except (OSError, ValueError) as exc:
        reason = str(exc).splitlines()[0]
        raise CheckpointError(f"{source} has no readable tokenizer ({reason}); download the whole checkpoint") from exc
    _forget_training(tokenizer)
    if (largest := max(tokenizer.get_vocab().values())) >= config.text.vocab_size:
        raise CheckpointError(
            f"the tokenizer in {source} has tokens up to the id {largest}, the embeddings {config.text.vocab_size} "
            "rows; take both from the same run, or resize the embeddings (resize_token_embeddings) and train them"
        )
    return tokenizer


def _forget_training(tokenizer: Any) -> None:
    """A tokenizer that has cut or padded batches is saved so that it always does."""
    tokenizer.backend_tokenizer.no_truncation()
    tokenizer.backend_tokenizer.no_padding()


def write_tokenizer(tokenizer: PreTrainedTokenizerBase, folder: Path) -> dict[Path, FileFacts]:
    """Write the tokenizer's files; `VerificationError` if `tokenizer.json` alone gives other ids.

    Returns the facts of each file.
    """
    written = map(Path, tokenizer.save_pretrained(folder))
    bare = Tokenizer.from_file(str(folder / "tokenizer.json"))
    for text in PROBES:
        if bare.encode(text).ids != tokenizer(text)["input_ids"]:
            raise VerificationError(f"the written tokenizer.json gives other ids than the checkpoint's for {text!r}")
    return {path: facts_of(path) for path in written if path.is_file()}
