"""Records become figures, in the names, units and form of AIPerf's JSON export."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from .load import Run
from .requests import ANSWERED, CANCELLED, FAILED, OUTCOMES, STAGES, Record
from .scenario import PERCENTILES, Objectives

Figures = dict[str, Any]


def _ms(get: Callable[[Record], float | None]) -> Callable[[Record], float | None]:
    return lambda record: None if (seconds := get(record)) is None else 1000 * seconds


DISTRIBUTIONS: dict[str, tuple[str, Callable[[Record], float | None]]] = {
    "time_to_first_token": ("ms", _ms(lambda record: record.first_token_seconds)),
    "inter_token_latency": ("ms", _ms(lambda record: record.inter_token_seconds)),
    "request_latency": ("ms", _ms(lambda record: record.latency_seconds)),
    "output_token_throughput_per_user": (
        "tokens/sec/user",
        lambda record: 1 / record.inter_token_seconds if record.inter_token_seconds else None,
    ),
    "output_sequence_length": ("tokens", lambda record: record.num_output_tokens),
    "input_sequence_length": ("tokens", lambda record: record.num_input_tokens),
    "send_lag": ("ms", _ms(lambda record: record.lag_seconds)),  # not AIPerf's: this tool's own delay
}
"""Figures with percentiles: unit, and the value of one record (None: it has none)."""


def summarize(records: Sequence[Record], objectives: Objectives) -> Figures:
    """Return the figures of `records`.

    Each of `DISTRIBUTIONS` is {unit, avg, p50, p90, p99, min, max, std, count}, over the answered requests (`send_lag`:
    over all); those without a value are missing. Throughputs are {unit, avg}, per second from the first arrival to the
    end of the last request. `..._count` are requests by outcome, good requests, and tokens of the answered requests
    (`cancelled_tokens_count`: of those that their callers cancelled). `stage_ms` are means, `errors` the most frequent
    first.
    """
    answers = [record for record in records if record.outcome == ANSWERED]
    outcomes = Counter(record.outcome for record in records)
    num_good = sum(is_good(record, objectives) for record in answers)
    num_output_tokens = sum(record.num_output_tokens for record in answers)
    seconds = max(r.ended for r in records) - min(r.due for r in records) if records else 0.0

    def per_second(count: int, unit: str) -> Figures:
        return {"unit": f"{unit}/sec", "avg": count / seconds if seconds else 0.0}

    return {
        **_distributions(records, answers),
        "request_throughput": per_second(len(answers), "requests"),
        "output_token_throughput": per_second(num_output_tokens, "tokens"),
        "goodput": per_second(num_good, "requests"),
        "benchmark_duration": {"unit": "sec", "avg": seconds},
        "sent_count": len(records),
        **{f"{outcome}_count": outcomes[outcome] for outcome in OUTCOMES},
        "good_count": num_good,
        "output_tokens_count": num_output_tokens,
        "cancelled_tokens_count": sum(r.num_output_tokens for r in records if r.outcome == CANCELLED),
        "input_tokens_count": sum(record.num_input_tokens for record in answers),
        "cached_tokens_count": sum(record.num_cached_tokens for record in answers),
        "stage_ms": {s: 1000 * sum(r.stage_seconds[s] for r in answers) / len(answers) for s in STAGES if answers},
        "errors": _errors(records),
    }


def percentile(figures: Figures, metric: str, which: int) -> float | None:
    """Return one percentile of a distribution; None where there is none."""
    return figures.get(metric, {}).get(f"p{which}")


def by_kind(run: Run) -> dict[str, Figures]:
    """Return the figures of each kind of request; a conversation's later turns are a kind of their own."""
    groups: dict[str, list[Record]] = {}
    for record in sorted(run.measured, key=lambda record: record.kind):
        groups.setdefault(record.kind + (", later" if record.turn > 1 else ""), []).append(record)
    return {kind: summarize(records, run.scenario.objectives) for kind, records in groups.items()}


def by_phase(run: Run) -> dict[str, Figures]:
    """Return the figures of the requests due in each phase, warm-ups too."""
    groups: dict[str, list[Record]] = {name: [] for name in run.scenario.phase_names}
    for record in run.records:
        groups[run.scenario.phase_names[run.scenario.phase_at(record.due)[0]]].append(record)
    return {name: summarize(records, run.scenario.objectives) for name, records in groups.items() if records}


def is_good(record: Record, objectives: Objectives) -> bool:
    """Whether an answer meets all objectives; a figure that it lacks, as with a single token, counts as met."""
    return all((DISTRIBUTIONS[name][1](record) or 0.0) <= limit for name, limit in objectives.given.items())


def _distributions(records: Sequence[Record], answers: Sequence[Record]) -> Figures:
    figures: Figures = {}
    for name, (unit, get) in DISTRIBUTIONS.items():
        values = [value for value in map(get, records if name == "send_lag" else answers) if value is not None]
        if values:
            figures[name] = {"unit": unit, **_distribution(np.array(values))}
    return figures


def _distribution(values: np.ndarray) -> Figures:
    """Percentiles are interpolated between neighbours: p99 of fewer than 100 values is near the largest."""
    percentiles = {f"p{p}": float(np.percentile(values, p)) for p in PERCENTILES}
    ends = {"min": float(values.min()), "max": float(values.max())}
    return {"avg": float(values.mean()), **percentiles, **ends, "std": float(values.std()), "count": values.size}


def _errors(records: Iterable[Record]) -> list[Figures]:
    failed = [record for record in records if record.outcome == FAILED]
    examples = {record.reason: record.message for record in reversed(failed)}
    counted = Counter(record.reason for record in failed).most_common()
    return [{"reason": reason, "count": count, "example": examples[reason]} for reason, count in counted]
