"""A `tokenizer.model` of Llama, as the original code reads it, becomes a tokenizer that needs no sentencepiece.

That code takes transformers' slow tokenizer: every text between special tokens begins with a blank of its own.
"""

from pathlib import Path
from typing import Any

from sentencepiece import SentencePieceProcessor
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, processors
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast
from transformers.utils import sentencepiece_model_pb2_new as messages  # sentencepiece's own needs a newer protobuf

from .errors import CheckpointError

NAME = "tokenizer.model"
_BLANK = "\N{LOWER ONE EIGHTH BLOCK}"
# Kinds of pieces, as sentencepiece numbers them.
_NORMAL, _UNKNOWN, _CONTROL, _BYTE = 1, 2, 3, 6


def count_pieces(path: Path) -> int:
    """How many tokens it has; raises `CheckpointError` as `read_sentencepiece`."""
    return len(_read(path).pieces)


def read_sentencepiece(path: Path) -> PreTrainedTokenizerBase:
    """The tokenizer in `path`; raises `CheckpointError` unless it is one of Llama's kind."""
    model = _read(path)
    unknown, begin, end = (model.pieces[index].piece for index in range(3))
    tokenizer = _build(model, [AddedToken(token, special=True, normalized=False) for token in (unknown, begin, end)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token=unknown,
        bos_token=begin,
        eos_token=end,
        pad_token=unknown,
        clean_up_tokenization_spaces=False,
    )


def _read(path: Path) -> Any:
    model = _new_model()
    try:
        model.ParseFromString(path.read_bytes())
    except OSError as exc:
        raise CheckpointError(f"{path.parent} has no {NAME}, which the original code reads; download it") from exc
    except Exception as exc:
        raise CheckpointError(f"{path} is damaged ({exc}); download it again") from exc
    if model.trainer_spec.model_type != model.trainer_spec.BPE or not model.trainer_spec.byte_fallback:
        raise CheckpointError(f"{path} is not of Llama's kind: byte-pair encoding with byte fallback")
    return model


def piece_ids(path: Path, text: str) -> list[int]:
    """What sentencepiece itself makes of a text without special tokens, behind the token that begins a prompt."""
    processor = SentencePieceProcessor(model_file=str(path))
    return [processor.bos_id(), *processor.encode(text)]


def _new_model() -> Any:
    classes: Any = messages
    return classes.ModelProto()


def _build(model: Any, special: list[AddedToken]) -> Tokenizer:
    vocabulary = {piece.piece: index for index, piece in enumerate(model.pieces)}
    tokenizer: Any = Tokenizer(
        models.BPE(
            vocab=vocabulary,
            merges=_merges(model, vocabulary),
            unk_token=special[0].content,
            fuse_unk=True,
            byte_fallback=True,
        )
    )
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend(_BLANK), normalizers.Replace(" ", _BLANK)])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace(_BLANK, " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    begin = special[1].content
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{begin} $A", pair=f"{begin} $A $B", special_tokens=[(begin, vocabulary[begin])]
    )
    tokenizer.add_special_tokens(special)
    return tokenizer


def _merges(model: Any, vocabulary: dict[str, int]) -> list[tuple[str, str]]:
    """Every pair of pieces that makes a piece, those with the best score first."""
    pieces = sorted((piece for piece in model.pieces if piece.type == _NORMAL), key=lambda piece: -piece.score)
    return [
        (piece.piece[:end], piece.piece[end:])
        for piece in pieces
        for end in range(1, len(piece.piece))
        if piece.piece[:end] in vocabulary and piece.piece[end:] in vocabulary
    ]


def write_sentencepiece(tokenizer: PreTrainedTokenizerBase, path: Path, *, num_pieces: int) -> None:
    """Write the first `num_pieces` tokens of a tokenizer of `llama_tokenizer.py` as a `tokenizer.model`."""
    model = _new_model()
    model.trainer_spec.model_type = model.trainer_spec.BPE
    model.trainer_spec.byte_fallback = True
    model.trainer_spec.vocab_size = num_pieces
    model.normalizer_spec.name = "identity"
    model.normalizer_spec.add_dummy_prefix = True
    model.normalizer_spec.remove_extra_whitespaces = False
    model.normalizer_spec.escape_whitespaces = True
    kinds = {0: _UNKNOWN, 1: _CONTROL, 2: _CONTROL} | dict.fromkeys(range(3, 259), _BYTE)
    for index, token in enumerate(tokenizer.convert_ids_to_tokens(list(range(num_pieces)))):
        kind = kinds.get(index, _NORMAL)
        model.pieces.add(piece=token, score=259.0 - index if kind == _NORMAL else 0.0, type=kind)
    path.write_bytes(model.SerializeToString())
