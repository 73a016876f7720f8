"""The report of `video-llava-export verify`, and the file that keeps a server's answers for later."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .comparison import DIFFERENT, Case, Comparison, GreedyAnswer
from .errors import ParityError

_COLUMNS = (
    "media",
    "question",
    "tokens equal",
    "first divergence",
    "gap there",
    "largest logit error",
    "feature error (largest)",
    "",
)


@dataclass(frozen=True)
class ParityReport:
    """All comparisons, and what was compared with what."""

    checkpoint: str
    server: str
    dtype: str
    max_tokens: int
    comparisons: tuple[Comparison, ...]

    @property
    def holds(self) -> bool:
        """Whether no comparison shows a fault."""
        return all(comparison.verdict != DIFFERENT for comparison in self.comparisons)

    def as_json(self) -> str:
        """All values."""
        values: dict[str, Any] = asdict(self) | {"decoding": "greedy", "holds": self.holds}
        for written, comparison in zip(values["comparisons"], self.comparisons, strict=True):
            written["verdict"] = comparison.verdict
        return json.dumps(values, indent=2, ensure_ascii=False) + "\n"

    def as_markdown(self) -> str:
        """A table with one line per comparison."""
        title = (
            f"Parity of {self.server} with {self.checkpoint} (Hugging Face, {self.dtype}): greedy, at most "
            f"{self.max_tokens} tokens."
        )
        rows = [_COLUMNS, ("---",) * len(_COLUMNS), *map(_cells, self.comparisons)]
        return "\n".join([title, "", *(f"| {' | '.join(row)} |" for row in rows)]) + "\n"


def _cells(comparison: Comparison) -> tuple[str, ...]:
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
    return tuple(cell.replace("|", "\\|").replace("\n", " ") for cell in cells)


def save_answers(path: Path, cases: Sequence[Case], answers: Sequence[GreedyAnswer]) -> None:
    """Write a server's answers to `path` (.npz), to be compared once the server has stopped."""
    texts = [
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
        np.savez(file, allow_pickle=False, answers=np.array(json.dumps(texts)), **features)


def load_answers(path: Path, cases: Sequence[Case]) -> list[GreedyAnswer]:
    """Read what `save_answers` wrote; `ParityError` unless it is about the same `cases`."""
    try:
        with np.load(path, allow_pickle=False) as file:
            texts = json.loads(str(file["answers"]))
            features = [file[f"features_{number}"] for number in range(len(texts))]
    except (OSError, ValueError, KeyError) as exc:
        raise ParityError(f"{path} holds no recorded answers ({exc}); record them with --server … --record") from exc
    recorded = [(entry["media"], entry["question"]) for entry in texts]
    if recorded != (asked := [(str(case.media), case.question) for case in cases]):
        raise ParityError(f"{path} holds answers to {recorded}, not to {asked}; name the same media and questions")
    return [
        GreedyAnswer(
            text=entry["text"],
            features=rows,
            token_ids=tuple(entry["token_ids"]),
            logprobs=[{int(token): value for token, value in listed.items()} for listed in entry["logprobs"]],
        )
        for entry, rows in zip(texts, features, strict=True)
    ]
