"""What a batch took: sums over its rows, and what follows from them."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Self

from ..answers import StageSeconds

if TYPE_CHECKING:
    from ..answers import Answer
    from .rows import Record, Row

STAGES: tuple[str, ...] = tuple(each.name for each in fields(StageSeconds) if each.name not in ("first_token", "total"))
_IN_SERVER = ("transfer", "encode", "queue", "prefill", "generation")
_COUNTS = ("num_answered", "num_failed", "num_clips", "num_input_tokens", "num_cached_tokens", "num_output_tokens")
_NUM_EXAMPLES = 5
_MAX_ID_LENGTH = 100


@dataclass
class Failures:
    """Rows that failed with one type of error.

    Attributes:
        count: How many.
        ids: Of the first ones: an id, or "line 7".
        message: Of the first one.
    """

    count: int = 0
    ids: list[str] = field(default_factory=list)
    message: str = ""


@dataclass
class Report:
    """Sums over the rows that one run, or several, asked; memory does not grow with them.

    Attributes:
        spans: When each run began and ended, in seconds since 1970. A run that is not ended ends now.
        is_finished: Whether all rows of IN were read and have a record.
        num_answered: Rows with an answer.
        num_failed: Rows with an error, those that the next run asks again included.
        num_clips: Videos of the rows with an answer.
        num_input_tokens: Tokens of their prompts, media included.
        num_cached_tokens: How many of those were in the engine's prefix cache.
        num_output_tokens: Tokens of their answers.
        video_seconds: Of their videos, or of the parts that they ask about (`start_seconds`, `end_seconds`).
        stage_seconds: Of their rows, by stage of `StageSeconds`.
        errors: Failed rows by the type of their error.
    """

    spans: list[tuple[float, float | None]] = field(default_factory=lambda: [(time.time(), None)])
    is_finished: bool = False
    num_answered: int = 0
    num_failed: int = 0
    num_clips: int = 0
    num_input_tokens: int = 0
    num_cached_tokens: int = 0
    num_output_tokens: int = 0
    video_seconds: float = 0.0
    stage_seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(STAGES, 0.0))
    errors: dict[str, Failures] = field(default_factory=dict)

    def answered(self, question: Mapping[str, Any], answer: Answer, decode_seconds: float) -> None:
        """Add a row with an answer.

        Args:
            question: Its arguments of `ask`.
            answer: The answer.
            decode_seconds: What its videos took before it was asked.
        """
        self.num_answered += 1
        self.num_clips += len(answer.frames)
        self.num_input_tokens += answer.num_input_tokens
        self.num_cached_tokens += answer.num_cached_tokens
        self.num_output_tokens += answer.num_output_tokens
        start, end = question.get("start_seconds") or 0.0, question.get("end_seconds")
        for clip in answer.frames:
            known = [bound for bound in (end, clip.duration_seconds) if bound is not None]
            self.video_seconds += max(0.0, min(known) - start) if known else 0.0
        self.stage_seconds["decode"] += decode_seconds
        for stage in STAGES:
            self.stage_seconds[stage] += getattr(answer.stage_seconds, stage)

    def failed(self, row: Row, record: Record) -> None:
        """Add a row whose record has an error."""
        self.num_failed += 1
        failures = self.errors.setdefault(record["error"]["type"], Failures())
        failures.count += 1
        failures.message = failures.message or record["error"]["message"]
        if len(failures.ids) < _NUM_EXAMPLES:
            identity = record.get("id", row.copied.get("id", f"line {row.number}"))
            failures.ids.append(str(identity)[:_MAX_ID_LENGTH])

    def end(self, *, is_finished: bool) -> None:
        """Note that the run has ended."""
        self.spans[-1] = (self.spans[-1][0], time.time())
        self.is_finished = is_finished

    @property
    def wall_seconds(self) -> float:
        """Seconds in which at least one run ran."""
        total, reached = 0.0, 0.0
        for start, end in sorted(self._ended_spans()):
            total += max(0.0, end - max(start, reached))
            reached = max(reached, end)
        return total

    def to_json(self, *, num_gpus: float | None = None) -> dict[str, Any]:
        """Return the sums, and what follows from them."""
        spans, wall = self._ended_spans(), max(self.wall_seconds, 1e-9)
        seconds = dict(self.stage_seconds)
        total = max(sum(seconds.values()), 1e-9)
        rates = {
            "rows": (self.num_answered + self.num_failed) / wall,
            "clips": self.num_clips / wall,
            "input_tokens": self.num_input_tokens / wall,
            "output_tokens": self.num_output_tokens / wall,
            "video_seconds": self.video_seconds / wall,
        }
        return {
            "began": _iso(min(start for start, _ in spans)),
            "ended": _iso(max(end for _, end in spans)),
            "is_finished": self.is_finished,
            "num_runs": len(spans),
            "wall_seconds": round(wall, 3),
            **{name: getattr(self, name) for name in _COUNTS},
            "video_seconds": round(self.video_seconds, 3),
            "per_second": _rounded(rates),
            "num_gpus": num_gpus,
            "per_second_and_gpu": _rounded({name: rate / num_gpus for name, rate in rates.items()})
            if num_gpus
            else None,
            "stage_seconds": _rounded(seconds),
            "stage_shares": _rounded({stage: each / total for stage, each in seconds.items()}),
            "mean_decoding": round((seconds["decode"] + seconds["preprocess"]) / wall, 3),
            "mean_in_server": round(sum(seconds[stage] for stage in _IN_SERVER) / wall, 3),
            "errors": {name: vars(each) for name, each in sorted(self.errors.items(), key=lambda one: -one[1].count)},
        }

    @classmethod
    def sum_of(cls, reports: Iterable[Mapping[str, Any]]) -> Self:
        """Return the report of several runs, each as `to_json` made it."""
        total = cls(spans=[])
        for each in reports:
            total.spans.append((_seconds(each["began"]), _seconds(each["ended"])))
            for name in (*_COUNTS, "video_seconds"):
                setattr(total, name, getattr(total, name) + each[name])
            for stage in STAGES:
                total.stage_seconds[stage] += each["stage_seconds"][stage]
            for name, found in each["errors"].items():
                failures = total.errors.setdefault(name, Failures(message=found["message"]))
                failures.count += found["count"]
                failures.ids = (failures.ids + found["ids"])[:_NUM_EXAMPLES]
        return total

    def _ended_spans(self) -> list[tuple[float, float]]:
        now = time.time()
        return [(start, now if end is None else end) for start, end in self.spans]


def _rounded(values: Mapping[str, float]) -> dict[str, float]:
    return {name: round(value, 6) for name, value in values.items()}


def _iso(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")


def _seconds(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()
