"""Records become figures, in the names, units and definitions of AIPerf (and GenAI-Perf before it)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from .load import Run
from .requests import ANSWERED, CANCELLED, FAILED, STAGES, UNFINISHED, Record
from .scenario import PERCENTILES, Objectives


@dataclass(frozen=True)
class Distribution:
    """How one figure is spread over the answers.

    Attributes:
        unit: "ms", "tokens" or "tokens/sec/user".
        num_values: How many answers have it; those of one token have no inter-token latency.
        average: Their mean.
        std: Their standard deviation.
        percentiles: By percentile, interpolated between neighbours: the 99th of fewer than 100 is near the largest.
    """

    unit: str
    num_values: int
    average: float
    std: float
    minimum: float
    maximum: float
    percentiles: dict[int, float]

    @classmethod
    def of(cls, values: Iterable[float | None], *, unit: str) -> Distribution | None:
        """Return the distribution of those that are not None; None where none are left."""
        array = np.array([value for value in values if value is not None])
        if not array.size:
            return None
        return cls(
            unit=unit,
            num_values=array.size,
            average=float(array.mean()),
            std=float(array.std()),
            minimum=float(array.min()),
            maximum=float(array.max()),
            percentiles={p: float(np.percentile(array, p)) for p in PERCENTILES},
        )


@dataclass(frozen=True)
class ErrorCount:
    """Requests that failed for one reason; `example` is the first one's message."""

    reason: str
    count: int
    example: str


@dataclass(frozen=True)
class Summary:
    """The figures of some requests.

    Attributes:
        num_sent: All of them: answered, cancelled, failed and unfinished ones.
        num_good: Answered within all objectives.
        duration_seconds: From the first that was due to the end of the last.
        num_output_tokens: Of the answers.
        num_cancelled_tokens: Which came before callers left.
        num_input_tokens: Of the answers: positions of their prompts.
        num_cached_tokens: How many of those the engine had in its prefix cache.
        distributions: By AIPerf's name; those without a value are missing.
        stage_ms: Mean time of an answer in each of the client's stages, milliseconds.
        errors: By reason, the commonest first.
    """

    num_sent: int
    num_answered: int
    num_cancelled: int
    num_failed: int
    num_unfinished: int
    num_good: int
    duration_seconds: float
    num_output_tokens: int
    num_cancelled_tokens: int
    num_input_tokens: int
    num_cached_tokens: int
    distributions: dict[str, Distribution]
    stage_ms: dict[str, float]
    errors: tuple[ErrorCount, ...]

    @property
    def request_throughput(self) -> float:
        """Answers a second."""
        return self._per_second(self.num_answered)

    @property
    def output_token_throughput(self) -> float:
        """Tokens of answers a second."""
        return self._per_second(self.num_output_tokens)

    @property
    def goodput(self) -> float:
        """Answers a second that met the objectives."""
        return self._per_second(self.num_good)

    @property
    def good_share(self) -> float:
        """Answers that met the objectives, as a share of what was sent and not left by its caller; 0 of none."""
        return self.num_good / max(1, self.num_sent - self.num_cancelled)

    def percentile(self, metric: str, percentile: int) -> float | None:
        """Return one percentile of a distribution; None where there is none."""
        found = self.distributions.get(metric)
        return None if found is None else found.percentiles[percentile]

    def _per_second(self, count: int) -> float:
        return count / self.duration_seconds if self.duration_seconds else 0.0


def _ms(get: Callable[[Record], float | None]) -> Callable[[Record], float | None]:
    return lambda record: None if (seconds := get(record)) is None else 1000 * seconds


def _tokens_per_second(record: Record) -> float | None:
    return 1 / record.inter_token_seconds if record.inter_token_seconds else None


_DISTRIBUTIONS: dict[str, tuple[str, Callable[[Record], float | None]]] = {
    "time_to_first_token": ("ms", _ms(lambda record: record.first_token_seconds)),
    "inter_token_latency": ("ms", _ms(lambda record: record.inter_token_seconds)),
    "request_latency": ("ms", _ms(lambda record: record.latency_seconds)),
    "output_token_throughput_per_user": ("tokens/sec/user", _tokens_per_second),
    "output_sequence_length": ("tokens", lambda record: record.num_output_tokens),
    "input_sequence_length": ("tokens", lambda record: record.num_input_tokens),
    "send_lag": ("ms", _ms(lambda record: record.lag_seconds)),  # not AIPerf's: how late this tool itself was
}


def summarize(records: Sequence[Record], objectives: Objectives) -> Summary:
    """Return the figures of `records`."""
    answers = [record for record in records if record.outcome == ANSWERED]
    outcomes = Counter(record.outcome for record in records)
    of = {
        name: Distribution.of(map(get, records if name == "send_lag" else answers), unit=unit)
        for name, (unit, get) in _DISTRIBUTIONS.items()
    }
    return Summary(
        num_sent=len(records),
        num_answered=outcomes[ANSWERED],
        num_cancelled=outcomes[CANCELLED],
        num_failed=outcomes[FAILED],
        num_unfinished=outcomes[UNFINISHED],
        num_good=sum(is_good(record, objectives) for record in answers),
        duration_seconds=max(r.ended for r in records) - min(r.due for r in records) if records else 0.0,
        num_output_tokens=sum(record.num_output_tokens for record in answers),
        num_cancelled_tokens=sum(record.num_output_tokens for record in records if record.outcome == CANCELLED),
        num_input_tokens=sum(record.num_input_tokens for record in answers),
        num_cached_tokens=sum(record.num_cached_tokens for record in answers),
        distributions={name: found for name, found in of.items() if found is not None},
        stage_ms={s: 1000 * sum(r.stage_seconds[s] for r in answers) / len(answers) for s in STAGES} if answers else {},
        errors=_errors(records),
    )


def by_kind(run: Run) -> dict[str, Summary]:
    """Return the figures of each kind of request that was sent; a conversation's later turns are one of their own."""
    groups: dict[str, list[Record]] = {}
    for record in sorted(run.measured, key=lambda record: record.kind):
        groups.setdefault(record.kind + (", later" if record.turn > 1 else ""), []).append(record)
    return {kind: summarize(records, run.scenario.objectives) for kind, records in groups.items()}


def by_phase(run: Run) -> dict[str, Summary]:
    """Return the figures of each phase, warm-ups too: of what was due in it, whenever it ended."""
    groups: dict[str, list[Record]] = {name: [] for name in run.scenario.phase_names}
    for record in run.records:
        groups[run.scenario.phase_names[run.scenario.phase_at(record.due)[0]]].append(record)
    return {name: summarize(records, run.scenario.objectives) for name, records in groups.items() if records}


def is_good(record: Record, objectives: Objectives) -> bool:
    """Whether an answer meets all objectives; one that lacks a figure, as of a single token, cannot miss it."""
    figures = {
        "time_to_first_token_ms": record.first_token_seconds,
        "inter_token_latency_ms": record.inter_token_seconds,
        "request_latency_ms": record.latency_seconds,
    }
    return all(1000 * (figures[name] or 0.0) <= limit for name, limit in objectives.given.items())


def _errors(records: Iterable[Record]) -> tuple[ErrorCount, ...]:
    failed = [record for record in records if record.outcome == FAILED]
    examples = {record.reason: record.message for record in reversed(failed)}
    counted = Counter(record.reason for record in failed).most_common()
    return tuple(ErrorCount(reason, count, examples[reason]) for reason, count in counted)
