"""What was measured, as it travels between processes and into the report: plain values, times in seconds."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Self


@dataclass(frozen=True)
class Answered:
    """One question: when it was asked (from the start of its run), and how long the answer took."""

    asked_seconds: float
    first_token_seconds: float
    """from asking to the first token"""
    total_seconds: float
    """from asking to the last token"""
    num_tokens: int
    turn: int
    """0: the first question about its clip"""
    stages: dict[str, float] = field(default_factory=dict)
    """what the contestant itself knows of the time within"""
    gaps: list[float] = field(default_factory=list)
    """seconds between two pieces of the answer"""

    @property
    def inter_token_seconds(self) -> float:
        """Mean time between two tokens of this answer."""
        return (self.total_seconds - self.first_token_seconds) / max(1, self.num_tokens - 1)


@dataclass(frozen=True)
class Run:
    """One contestant on one workload. CPU time and memory are those of its whole process tree."""

    contestant: str
    workload: str
    concurrency: int
    seconds: float
    cpu_seconds: float
    client_cpu_seconds: float
    """of the process that asks, where it is another one"""
    others_cpu_seconds: float
    """of everything else on the machine meanwhile"""
    peak_bytes: int
    answers: tuple[Answered, ...]
    gpu_busy: float | None = None
    """mean share of the time in which a kernel ran; None without a GPU"""
    gpu_peak_bytes: float | None = None

    @classmethod
    def joined(cls, runs: Sequence[Self]) -> Self:
        """The same contestant on the same workload several times, as one longer run."""
        return replace(
            runs[0],
            seconds=sum(run.seconds for run in runs),
            cpu_seconds=sum(run.cpu_seconds for run in runs),
            client_cpu_seconds=sum(run.client_cpu_seconds for run in runs),
            others_cpu_seconds=sum(run.others_cpu_seconds for run in runs),
            peak_bytes=max(run.peak_bytes for run in runs),
            answers=tuple(answer for run in runs for answer in run.answers),
        )

    @property
    def requests_per_second(self) -> float:
        """Throughput."""
        return len(self.answers) / self.seconds

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Self:
        """Read what `to_json` wrote."""
        return cls(**{**values, "answers": tuple(Answered(**answer) for answer in values["answers"])})

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


@dataclass(frozen=True)
class Result:
    """A contestant's round: in which setting, how long its start took and, where known, the steps of it, its runs."""

    contestant: str
    setting: str
    start_seconds: float
    runs: tuple[Run, ...]
    start_steps: dict[str, float] = field(default_factory=dict)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Self:
        """Read what `to_json` wrote."""
        return cls(**{**values, "runs": tuple(Run.from_json(run) for run in values["runs"])})

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)
