"""Does a server answer as the checkpoint's own model does? Both sides' answers, case by case, and a report of it.

The tokens are greedy on both sides. Where they part, what tells noise from a fault is the reference's own margin: if it
preferred its token to the server's by less than the two sides differ anyway, rounding chose.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from video_llava_client.media import is_image

from .errors import ParityError

EQUAL, NOISE, DIFFERENT = "equal", "rounding", "different"


@dataclass(frozen=True)
class Case:
    """One question about one file."""

    media: Path
    medium: str
    question: str


def make_cases(media: Sequence[Path], questions: Sequence[str]) -> list[Case]:
    """Every question about every file; what a file is, its content says."""
    return [Case(path, "image" if is_image(path) else "video", question) for path in media for question in questions]


@dataclass(frozen=True, eq=False)
class SideAnswer:
    """What one side made of a case.

    `features` float32, shape = (rows, hidden), of the encoder; `token_ids` of the answer; `logprobs` for each of them
    {token: log probability}: of the likeliest ones on the server, of the whole vocabulary in the reference.
    """

    text: str
    features: np.ndarray
    token_ids: tuple[int, ...]
    logprobs: "Sequence[dict[int, float] | np.ndarray]"


@dataclass(frozen=True)
class Comparison:
    """How far the server is from the reference in one case.

    `first_divergence` is the place of the first token that differs, from 0, None where none does; `gap` how much more
    likely the reference held its own token there, in log probability. `logprob_error` is the largest difference of log
    probability, hence of logits up to a constant, of any token that the server listed while both had said the same.
    `feature_error` is relative (Frobenius norm), `feature_error_absolute` that of the worst value.
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
        """Both said the same; they parted where rounding decides; or there is a fault."""
        if self.first_divergence is None:
            return EQUAL
        return NOISE if self.gap is not None and self.gap <= 2 * self.logprob_error else DIFFERENT


def compare(case: Case, server: SideAnswer, reference: SideAnswer) -> Comparison:
    """Hold the server's answer against the reference's; `ParityError` if they are not of the same model."""
    if server.features.shape != reference.features.shape:
        raise ParityError(
            f"{case.media}: the server makes features {list(server.features.shape)} of it, the checkpoint "
            f"{list(reference.features.shape)}; serve the same checkpoint"
        )
    pairs = list(zip(server.token_ids, reference.token_ids, strict=False))
    num_equal = next((place for place, (ours, theirs) in enumerate(pairs) if ours != theirs), len(pairs))
    num_tokens = max(len(server.token_ids), len(reference.token_ids))
    diverges = num_equal < num_tokens
    difference = server.features - reference.features.astype(np.float64)
    return Comparison(
        media=str(case.media),
        question=case.question,
        num_tokens=num_tokens,
        num_equal=num_equal,
        first_divergence=num_equal if diverges else None,
        gap=_gap(reference, server, num_equal) if diverges else None,
        logprob_error=_logprob_error(server, reference, num_equal),
        feature_error=float(np.linalg.norm(difference) / np.linalg.norm(reference.features)),
        feature_error_absolute=float(abs(difference).max()),
        reference_text=reference.text,
        server_text=server.text,
    )


def _gap(reference: SideAnswer, server: SideAnswer, place: int) -> float | None:
    """None where one side had ended, which equal tokens before it cannot explain."""
    if place >= min(len(reference.token_ids), len(server.token_ids)):
        return None
    logprobs = reference.logprobs[place]
    return float(logprobs[reference.token_ids[place]] - logprobs[server.token_ids[place]])


def _logprob_error(server: SideAnswer, reference: SideAnswer, num_equal: int) -> float:
    """Up to and with the place where they part: until there both had the same text before them."""
    errors = [
        abs(logprob - reference.logprobs[place][token])
        for place, listed in enumerate(server.logprobs[: num_equal + 1])
        if place < len(reference.logprobs) and isinstance(listed, dict)
        for token, logprob in listed.items()
    ]
    return float(max(errors, default=0.0))


@dataclass(frozen=True)
class ParityReport:
    """All cases, and what was compared with what."""

    checkpoint: str
    server: str
    dtype: str
    max_tokens: int
    comparisons: tuple[Comparison, ...]

    @property
    def holds(self) -> bool:
        """Whether no case is a fault."""
        return all(comparison.verdict != DIFFERENT for comparison in self.comparisons)

    def as_json(self) -> str:
        """Everything that is known."""
        values: dict[str, Any] = asdict(self) | {"decoding": "greedy", "holds": self.holds}
        for written, comparison in zip(values["comparisons"], self.comparisons, strict=True):
            written["verdict"] = comparison.verdict
        return json.dumps(values, indent=2, ensure_ascii=False) + "\n"

    def as_markdown(self) -> str:
        """A table, a line a case."""
        lines = [
            f"Parity of {self.server} with {self.checkpoint} (Hugging Face, {self.dtype}): greedy, at most "
            f"{self.max_tokens} tokens.",
            "",
            "| media | question | tokens equal | first divergence | gap there | largest logit error | "
            "feature error (largest) | |",
            "|---|---|---|---|---|---|---|---|",
        ]
        lines += [_row(comparison) for comparison in self.comparisons]
        return "\n".join(lines) + "\n"


def _row(comparison: Comparison) -> str:
    cells = (
        Path(comparison.media).name,
        comparison.question,
        f"{comparison.num_equal} of {comparison.num_tokens}",
        "-" if comparison.first_divergence is None else str(comparison.first_divergence),
        "-" if comparison.gap is None else f"{comparison.gap:.1e}",
        f"{comparison.logprob_error:.1e}",
        f"{comparison.feature_error:.1e} ({comparison.feature_error_absolute:.1e})",
        comparison.verdict,
    )
    return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"


def save_answers(path: Path, cases: Sequence[Case], answers: Sequence[SideAnswer]) -> None:
    """Keep a server's answers in a file (.npz), to be compared when the server has given its memory back."""
    noted = [
        {
            "media": str(case.media),
            "question": case.question,
            "text": answer.text,
            "token_ids": answer.token_ids,
            "logprobs": list(answer.logprobs),
        }
        for case, answer in zip(cases, answers, strict=True)
    ]
    features = {f"features_{number}": answer.features for number, answer in enumerate(answers)}
    with path.open("wb") as file:
        np.savez(file, allow_pickle=False, answers=np.array(json.dumps(noted)), **features)


def load_answers(path: Path, cases: Sequence[Case]) -> list[SideAnswer]:
    """Read what `save_answers` wrote; `ParityError` unless it is of the same `cases`."""
    try:
        with np.load(path, allow_pickle=False) as file:
            noted = json.loads(str(file["answers"]))
            features = [file[f"features_{number}"] for number in range(len(noted))]
    except (OSError, ValueError, KeyError) as exc:
        raise ParityError(f"{path} holds no recorded answers ({exc}); record them with --server … --record") from exc
    recorded = [(entry["media"], entry["question"]) for entry in noted]
    asked = [(str(case.media), case.question) for case in cases]
    if recorded != asked:
        raise ParityError(
            f"{path} was recorded for {recorded}, asked for are {asked}; name the same media and questions"
        )
    return [
        SideAnswer(
            text=entry["text"],
            features=rows,
            token_ids=tuple(entry["token_ids"]),
            logprobs=[{int(token): value for token, value in listed.items()} for listed in entry["logprobs"]],
        )
        for entry, rows in zip(noted, features, strict=True)
    ]
