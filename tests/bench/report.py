"""The measurements become figures, and the figures a verdict on each thing that is promised."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any, Self

from .arithmetic import decode_bytes, encoder_flops, prefill_flops
from .records import Answered, Result, Run
from .shapes import WIDE, Shape


@dataclass(frozen=True)
class Figures:
    """One row of the table. Times are medians over the answers, in seconds."""

    contestant: str
    workload: str
    concurrency: int
    num_positions: int
    """of the prompt: the same for all contestants, or they do not do the same"""
    first_token_seconds: float
    inter_token_seconds: float
    requests_per_second: float
    rounds_requests_per_second: tuple[float, ...]
    """of each round by itself: how steady the machine was"""
    tokens_per_second: float
    cpu_seconds_per_request: float
    client_cpu_seconds_per_request: float
    others_share: float
    """of one processor, used by what does not belong to the bench"""
    peak_bytes: int

    @classmethod
    def of(cls, rounds: Sequence[Run]) -> Self:
        """The figures of a workload's runs, one of each round."""
        run = Run.joined(rounds)
        count = len(run.answers)
        return cls(
            contestant=run.contestant,
            workload=run.workload,
            concurrency=run.concurrency,
            num_positions=round(median(answer.stages["input_tokens"] for answer in run.answers)),
            first_token_seconds=median(answer.first_token_seconds for answer in run.answers),
            inter_token_seconds=median(answer.inter_token_seconds for answer in run.answers),
            requests_per_second=run.requests_per_second,
            rounds_requests_per_second=tuple(each.requests_per_second for each in rounds),
            tokens_per_second=sum(answer.num_tokens for answer in run.answers) / run.seconds,
            cpu_seconds_per_request=run.cpu_seconds / count,
            client_cpu_seconds_per_request=run.client_cpu_seconds / count,
            others_share=run.others_cpu_seconds / run.seconds,
            peak_bytes=run.peak_bytes,
        )


@dataclass(frozen=True)
class Promise:
    """What is to hold, and what was measured."""

    text: str
    measured: float
    limit: float
    at_least: bool
    unit: str

    @property
    def is_kept(self) -> bool:
        """Whether the figure is on the right side of its limit."""
        return self.measured >= self.limit if self.at_least else self.measured <= self.limit


class Report:
    """All that one run of the bench measured; `machine` and `stages` as those modules return them."""

    def __init__(
        self, shape: Shape, results: Iterable[Result], *, machine: Mapping[str, float], stages: Mapping[str, float]
    ) -> None:
        self.shape = shape
        self.results = tuple(results)
        self.machine = machine
        self.stages = stages
        self._rounds: dict[tuple[str, str, int], list[Run]] = {}
        for run in (run for result in self.results for run in result.runs):
            self._rounds.setdefault((run.contestant, run.workload, run.concurrency), []).append(run)

    @property
    def figures(self) -> list[Figures]:
        """Of every contestant and workload."""
        return [Figures.of(rounds) for rounds in self._rounds.values()]

    def shares(self) -> dict[str, float]:
        """What each stage reaches of what the machine could do, 1 is all of it."""
        machine, alone = self.machine, self._answers("triton", "unique", 1)
        positions = int(alone[0].stages["input_tokens"])
        prefill_seconds = median(answer.stages["prefill"] for answer in alone)
        text = self._answers("triton", "text", 1)
        step_seconds = median(answer.inter_token_seconds for answer in text)
        step_bytes = decode_bytes(self.shape, num_positions=int(text[0].stages["input_tokens"]))
        return {
            "encoder": encoder_flops(self.shape) / self.stages["encoder"] / machine["gemm_fp32"],
            "encoder_wide": encoder_flops(WIDE) / self.stages["encoder_wide"] / machine["gemm_fp32_wide"],
            "prefill": prefill_flops(self.shape, num_positions=positions) / prefill_seconds / machine["gemm_bf16"],
            "decode": step_bytes / step_seconds / machine["memory_bandwidth"],
        }

    def promises(self) -> list[Promise]:
        """Everything that issue and README promise of speed, with the figure of this run."""
        shares = self.shares()
        return [
            *(
                Promise(f"throughput against the engine in process, {name}, 16 at a time", ratio, 0.95, True, "x")
                for name, ratio in self._ratios("in_process", ("unique", "eight"))
            ),
            *self._first_token_promises(),
            *self._throughput_promises("hf_one_by_one", "model.generate one by one", {"unique": 1.8, "eight": 7.0}),
            *self._throughput_promises("vllm_serve", "vllm serve", {"unique": 1.0, "eight": 1.15}),
            *(
                Promise(f"throughput in int8 against vllm serve, {name}", ratio, 1.2, True, "x")
                for name, ratio in self._ratios("vllm_serve", ("unique", "eight"), of="triton_int8")
            ),
            Promise("encoder of the 7B's width, of the fp32 GEMM ceiling", shares["encoder_wide"], 0.7, True, ""),
            Promise("prefill, of the bf16 GEMM ceiling", shares["prefill"], 0.8, True, ""),
            Promise("int8 encoder against fp32", self._int8_factor(), 1.0, True, "x"),
            *(
                Promise(f"int8 language model against bfloat16, {name}, 16 at a time", ratio, 1.0, True, "x")
                for name, ratio in self._ratios("in_process", ("unique", "text"), of="in_process_int8")
            ),
        ]

    def _first_token_promises(self) -> list[Promise]:
        cold, warm = (self._first_token("triton", is_cold=is_cold) for is_cold in (True, False))
        over_cold = cold - self._first_token("in_process", is_cold=True)
        over_warm = warm - self._first_token("in_process", is_cold=False)
        return [
            Promise("TTFT beyond the engine in process, new video, 1 at a time", 1e3 * over_cold, 8, False, "ms"),
            Promise("TTFT beyond the engine in process, known video, 1 at a time", 1e3 * over_warm, 8, False, "ms"),
            Promise("TTFT for a known video, of that for a new one", warm / cold, 0.1, False, ""),
        ]

    def _first_token(self, contestant: str, *, is_cold: bool) -> float:
        answers = self._answers(contestant, "eight", 1)
        return median(answer.first_token_seconds for answer in answers if (answer.turn == 0) == is_cold)

    def _throughput_promises(self, contestant: str, name: str, limits: Mapping[str, float]) -> list[Promise]:
        return [
            Promise(f"throughput against {name}, {workload}", ratio, limits[workload], True, "x")
            for workload, ratio in self._ratios(contestant, limits)
        ]

    def _ratios(self, contestant: str, workloads: Iterable[str], *, of: str = "triton") -> list[tuple[str, float]]:
        """The best throughput of one, this server unless told otherwise, by that of another."""
        return [(name, self._throughput(of, name) / self._throughput(contestant, name)) for name in workloads]

    def _throughput(self, contestant: str, workload: str) -> float:
        """At the largest concurrency that was measured, over all rounds."""
        rows = [row for row in self.figures if (row.contestant, row.workload) == (contestant, workload)]
        return max(rows, key=lambda row: row.concurrency).requests_per_second

    def _int8_factor(self) -> float:
        return self.stages["encoder_wide"] / self.stages["encoder_wide_int8"]

    def _answers(self, contestant: str, workload: str, concurrency: int) -> tuple[Answered, ...]:
        return Run.joined(self._rounds[contestant, workload, concurrency]).answers

    def to_json(self) -> dict[str, Any]:
        """Everything, down to the single answers."""
        return {
            "machine": dict(self.machine),
            "shape": asdict(self.shape),
            "figures": [asdict(row) for row in self.figures],
            "shares": self.shares(),
            "stages": dict(self.stages),
            "promises": [{**asdict(promise), "is_kept": promise.is_kept} for promise in self.promises()],
            "results": [result.to_json() for result in self.results],
        }
