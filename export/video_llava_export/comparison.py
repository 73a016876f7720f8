"""How far one side is from the reference: of arrays, and of greedy answers to the same question.

Where two answers diverge, the reference's own margin tells rounding from a fault: if it preferred its token by less
than the two sides differ anyway, rounding chose.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from video_llava_client import is_image

from .errors import ParityError, VerificationError

EQUAL, ROUNDING, DIFFERENT = "equal", "rounding", "different"


@dataclass(frozen=True)
class Difference:
    """How far an array is from the reference's: the largest absolute difference, and the norm's ratio (Frobenius)."""

    part: str
    absolute: float
    relative: float

    @classmethod
    def between(cls, part: str, actual: np.ndarray, expected: np.ndarray) -> "Difference":
        """Compare two arrays of one shape; `VerificationError` if the shapes differ."""
        if actual.shape != expected.shape:
            raise VerificationError(f"{part} has shape {actual.shape}, the checkpoint's {expected.shape}")
        difference = actual.astype(np.float64) - expected
        return cls(part, float(abs(difference).max()), float(np.linalg.norm(difference) / np.linalg.norm(expected)))

    def check(self, tolerance: float) -> None:
        """Raise `VerificationError` above `tolerance` (relative), and for what is not a number."""
        if not self.relative <= tolerance:
            raise VerificationError(
                f"{self.part} differs from the checkpoint by {self.relative:.1e} relative, more than {tolerance:.1e}; "
                "nothing was written"
            )


def format_table(differences: Sequence[Difference]) -> str:
    """One line per part."""
    lines = [f"{'part':<16}{'largest difference':>20}{'relative (norm)':>18}"]
    lines += [f"{row.part:<16}{row.absolute:>20.1e}{row.relative:>18.1e}" for row in differences]
    return "\n".join(lines)


@dataclass(frozen=True)
class Case:
    """One question about one file."""

    media: Path
    medium: str
    question: str


def make_cases(media: Sequence[Path], questions: Sequence[str]) -> list[Case]:
    """Every question about every file. Whether a file is an image or a video, its content says."""
    return [Case(path, "image" if is_image(path) else "video", question) for path in media for question in questions]


@dataclass(frozen=True, eq=False)
class GreedyAnswer:
    """One side's answer to a case.

    `features` float32, shape = (rows, hidden), are the encoder's. `logprobs` has for each token the log probabilities
    by token id: of the likeliest ones (server), or of the whole vocabulary (reference).
    """

    text: str
    features: np.ndarray
    token_ids: tuple[int, ...]
    logprobs: Sequence[Mapping[int, float] | np.ndarray]


@dataclass(frozen=True)
class Comparison:
    """How far the server's answer is from the reference's.

    `first_divergence` is the index of the first token that differs, or None; `gap` is by how much the reference
    preferred its own token there, in log probability. `logprob_error` is the largest difference of log probability of
    the tokens that the server listed, up to that place. `feature_error` is relative (Frobenius norm).
    """

    media: str
    question: str
    num_tokens: int
    num_equal: int
    first_divergence: int | None
    gap: float | None
    logprob_error: float
    feature_error: float
    feature_error_absolute: float
    reference_text: str
    server_text: str

    @property
    def verdict(self) -> str:
        """The same tokens, tokens that differ by rounding, or a fault."""
        if self.first_divergence is None:
            return EQUAL
        return ROUNDING if self.gap is not None and self.gap <= 2 * self.logprob_error else DIFFERENT


def compare(case: Case, server: GreedyAnswer, reference: GreedyAnswer) -> Comparison:
    """Compare two answers; `ParityError` if they are not of the same model."""
    try:
        features = Difference.between("features", server.features, reference.features)
    except VerificationError as exc:
        raise ParityError(f"{case.media}: {exc}; serve the checkpoint that is compared with") from exc
    pairs = list(zip(server.token_ids, reference.token_ids, strict=False))
    num_equal = next((place for place, (ours, theirs) in enumerate(pairs) if ours != theirs), len(pairs))
    num_tokens = max(len(server.token_ids), len(reference.token_ids))
    diverges = num_equal < num_tokens
    return Comparison(
        media=str(case.media),
        question=case.question,
        num_tokens=num_tokens,
        num_equal=num_equal,
        first_divergence=num_equal if diverges else None,
        gap=_gap(reference, server, num_equal) if num_equal < len(pairs) else None,
        logprob_error=_logprob_error(server, reference, num_equal),
        feature_error=features.relative,
        feature_error_absolute=features.absolute,
        reference_text=reference.text,
        server_text=server.text,
    )


def _gap(reference: GreedyAnswer, server: GreedyAnswer, place: int) -> float:
    logprobs = reference.logprobs[place]
    return float(logprobs[reference.token_ids[place]] - logprobs[server.token_ids[place]])


def _logprob_error(server: GreedyAnswer, reference: GreedyAnswer, num_equal: int) -> float:
    """Up to and including the place where they diverge: until there both had the same text before them."""
    errors = [
        abs(logprob - reference.logprobs[place][token])
        for place, listed in enumerate(server.logprobs[: num_equal + 1])
        if place < len(reference.logprobs) and isinstance(listed, Mapping)
        for token, logprob in listed.items()
    ]
    return float(max(errors, default=0.0))
