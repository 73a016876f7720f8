"""The server's first tokens beside those of `model.generate`."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from bench.workloads import Question, frames_of
from video_llava_client import Conventions
from video_llava_export.comparison import Case, GreedyAnswer, compare
from video_llava_export.served_model import ServedModel

from .plan import MODELS, PARITY_TOKENS

QUESTION = Question("What happens to the rider in this video, and why?", 0)
_REFERENCE = MODELS / "reference.npz"
_CASE = Case(Path("bikes.mp4"), "video", QUESTION.text)


class _Server(ServedModel):
    @staticmethod
    def _load(case: Case, size: int, conventions: Conventions) -> np.ndarray:
        del case, size, conventions
        return frames_of(0)


def save_reference(**arrays: torch.Tensor) -> None:
    """`token_ids` [tokens], `logprobs` [tokens, vocabulary], `features` [rows, hidden]."""
    np.savez(_REFERENCE, **{name: array.cpu().numpy() for name, array in arrays.items()})


def compare_server(url: str) -> dict[str, Any]:
    """Ask the server at `url` (gRPC); returns the `Comparison` and its verdict."""
    with np.load(_REFERENCE) as saved:
        reference = GreedyAnswer("", saved["features"], tuple(saved["token_ids"].tolist()), list(saved["logprobs"]))
    with _Server(url, timeout_seconds=60) as server:
        comparison = compare(_CASE, server.answer(_CASE, max_tokens=PARITY_TOKENS), reference)
    return asdict(comparison) | {"verdict": comparison.verdict}
