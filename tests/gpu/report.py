"""`make gpu-report RESULTS="part1.tgz part2.tgz"`: what came back from the machine, as Markdown, beside the targets."""

import json
import sys
import tarfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from statistics import median
from typing import Any

from bench.arithmetic import decode_bytes, encoder_flops
from bench.records import Answered, Run
from bench.report import Promise
from bench.table import WORKLOADS

from .plan import SHAPES, quantile

_NAMES = {
    "hugging_face": "`model.generate`, bfloat16",
    "in_process": "engine in process",
    "server": "this server",
    "vllm_serve": "`vllm serve`, LLaVA-1.5 of the same shapes",
}
_STAGES = {
    "transfer": "transfer, Triton, relay",
    "encode": "from intake to the engine",
    "queue": "queue",
    "prefill": "prefill",
}
_COLUMNS = (
    "",
    "",
    "sessions",
    "TTFT p50",
    "p99 [ms]",
    "ITL p50",
    "p99 [ms]",
    "requests/s",
    "tokens/s",
    "GPU busy",
    "GB",
)


class Report:
    """The files that the steps wrote. A figure whose step has not run, or failed, is missing: KeyError."""

    def __init__(self, archives: Iterable[Path]) -> None:
        self._files: dict[str, str] = {}
        for path in archives:
            with tarfile.open(path) as archive:
                for member in archive:
                    if (file := archive.extractfile(member)) is not None:
                        self._files[Path(member.name).name] = file.read().decode(errors="replace")

    def _result(self, name: str) -> dict[str, Any]:
        return json.loads(self._files[f"{name}.json"])

    def _runs(self, name: str, workload: str = "") -> list[Run]:
        """Of one step, and of one workload unless that is empty."""
        runs = [Run.from_json(values) for values in self._result(name)["runs"]]
        found = [run for run in runs if workload in ("", run.workload)]
        if not found:
            raise KeyError(workload)
        return found

    def _best(self, name: str, workload: str) -> float:
        """Throughput with several sessions."""
        rates = [run.requests_per_second for run in self._runs(name, workload) if run.concurrency > 1]
        if not rates:
            raise KeyError(workload)
        return max(rates)

    def _alone(self, workload: str) -> Run:
        """This server's run with one session."""
        return min(self._runs("server", workload), key=lambda run: run.concurrency)

    def _answers_alone(self, *, known: bool) -> list[Answered]:
        """With one session; the first answer about a new video may have waited for a kernel to be compiled."""
        workload = "eight" if known else "unique"
        return [answer for answer in self._alone(workload).answers if (answer.turn > 0) == known]

    def _first_token_milliseconds(self, *, known: bool) -> float:
        return 1e3 * median(answer.first_token_seconds for answer in self._answers_alone(known=known))

    @property
    def _shape(self) -> Any:
        return SHAPES[self._result("ceilings")["size"]]

    def _encoder_share(self) -> float:
        ceilings = self._result("ceilings")
        best = min(row["seconds"] / row["videos"] for row in self._result("encoder")["batches"])
        return encoder_flops(self._shape) / best / max(ceilings["square_product"], ceilings["layer_product"])

    def _decode_share(self) -> float:
        answers = self._alone("unique").answers
        num_bytes = decode_bytes(self._shape, num_positions=int(answers[0].stages["input_tokens"]))
        # The server's own time: the client's is none where the network brings all tokens at once.
        step_seconds = median(answer.stages["generation"] / (answer.num_tokens - 1) for answer in answers)
        return num_bytes / step_seconds / self._result("ceilings")["copy"]

    def _longest_gap_milliseconds(self) -> float:
        run = max(self._runs("server", "text"), key=lambda run: run.concurrency)
        return 1e3 * quantile(_gaps(run), 0.99)

    def _targets(self) -> Iterator[tuple[str, Callable[[], float], float, bool, str]]:
        """Text, figure, limit, whether the limit is the least, unit."""

        def ratio(workload: str, other: str) -> Callable[[], float]:
            return lambda: self._best("server", workload) / self._best(other, workload)

        yield "unique videos", lambda: self._best("server", "unique"), 12, True, "requests/s"
        yield "unique videos, of the engine in process", ratio("unique", "in_process"), 0.95, True, "x"
        yield "eight questions a video", lambda: self._best("server", "eight"), 25, True, "requests/s"
        yield "eight questions a video, of `vllm serve`", ratio("eight", "vllm_serve"), 1.2, True, "x"
        yield "unique videos, of `model.generate` at its best batch", ratio("unique", "hugging_face"), 10, True, "x"
        yield "TTFT of a known video, one session", lambda: self._first_token_milliseconds(known=True), 40, False, "ms"
        yield "TTFT of a new video, one session", lambda: self._first_token_milliseconds(known=False), 120, False, "ms"
        yield "encoder, of the measured matrix product", self._encoder_share, 0.35, True, ""
        yield "decode of one sequence, of the measured bandwidth", self._decode_share, 0.7, True, ""
        yield "gap p99 with the most streams, text", self._longest_gap_milliseconds, 60, False, "ms"

    def lines(self) -> Iterator[str]:
        """The whole report."""
        facts = self._files.get("facts.txt", "no facts").splitlines()
        yield "# " + facts[0]
        yield ", ".join(facts[1:4])
        yield from _section("Targets", self._target_lines)
        yield from _section("Contestants", self._contestant_lines)
        yield from _section("Where the time to the first token goes, one session [ms]", self._stage_lines)
        yield from _section("First tokens", self._parity_lines)
        yield from _section("Encoder", self._encoder_lines)
        yield from _section("Ceilings", self._ceiling_lines)
        yield from _section("Steps", self._step_lines)

    def _target_lines(self) -> Iterator[str]:
        yield from _head("target", "measured", "limit", "")
        for text, figure, limit, at_least, unit in self._targets():
            bound = f"{'≥' if at_least else '≤'} {limit:g} {unit}"
            try:
                promise = Promise(text, figure(), limit, at_least, unit)
            except KeyError:
                yield _row(text, "not measured", bound, "")
            else:
                verdict = "met" if promise.is_kept else "not met"
                yield _row(text, f"{promise.measured:.3g} {unit}", bound, verdict)

    def _contestant_lines(self) -> Iterator[str]:
        yield from _head(*_COLUMNS)
        results = {name: self._result(name) for name in _NAMES if f"{name}.json" in self._files}
        for name in results:
            yield from (_row(_NAMES[name], *_figures(run)) for run in self._runs(name))
        if batch := results.get("hugging_face", {}).get("out_of_memory"):
            yield f"\nThe memory is too small for `model.generate` on a batch of {batch}."

    def _stage_lines(self) -> Iterator[str]:
        yield from _head("", *_STAGES.values(), "rest", "TTFT")
        for known in (False, True):
            answers = self._answers_alone(known=known)
            stages = [median(answer.stages[stage] for answer in answers) for stage in _STAGES]
            first = median(answer.first_token_seconds for answer in answers)
            cells = (f"{1e3 * seconds:.1f}" for seconds in (*stages, first - sum(stages), first))
            yield _row("known video" if known else "new video", *cells)

    def _parity_lines(self) -> Iterator[str]:
        parity = self._result("server")["parity"]
        margin = f", where the reference's margin is {parity['gap']:.2g}" if parity["gap"] is not None else ""
        yield (
            f"{parity['num_equal']} of {parity['num_tokens']} tokens of this server are those of `model.generate` in "
            f"bfloat16: {parity['verdict']}{margin}. Largest error of a log probability {parity['logprob_error']:.2g}; "
            f"of the features {parity['feature_error']:.1e}, relative."
        )

    def _encoder_lines(self) -> Iterator[str]:
        encoder, flops = self._result("encoder"), encoder_flops(self._shape)
        yield f"ONNX Runtime, {encoder['providers'][0]}"
        yield ""
        yield from _head("videos in a run", "ms", "with copies [ms]", "TFLOP/s")
        for row in encoder["batches"]:
            rate = row["videos"] * flops / row["seconds"] / 1e12
            yield _row(
                row["videos"], f"{1e3 * row['seconds']:.2f}", f"{1e3 * row['seconds_with_copies']:.2f}", f"{rate:.3g}"
            )

    def _step_lines(self) -> Iterator[str]:
        # Of a step that was repeated the last end counts.
        ends = dict(line.split(": ", 1) for line in self._files["steps.txt"].splitlines())
        yield from (f"- {name}: {end}" for name, end in ends.items())

    def _ceiling_lines(self) -> Iterator[str]:
        values = self._result("ceilings")
        yield f"- matrix product in bfloat16: {values['square_product'] / 1e12:.3g} TFLOP/s (square)"
        yield f"- the same of the model's shapes, one video: {values['layer_product'] / 1e12:.3g} TFLOP/s"
        yield f"- copy within the GPU's memory: {values['copy'] / 1e12:.3g} TB/s read and written"
        for direction in ("host", "device"):
            yield f"- a video's features to the {direction}: {1e3 * values[f'features_to_{direction}_seconds']:.2f} ms"
        yield f"- the same copied on the host: {1e3 * values['features_on_host_seconds']:.2f} ms"
        yield f"- a million steps of a loop in Python: {1e3 * values['million_steps_seconds']:.0f} ms"


def _section(title: str, lines: Callable[[], Iterable[str]]) -> Iterator[str]:
    yield f"\n## {title}\n"
    try:
        yield from lines()
    except KeyError:
        yield "not measured: its step failed or did not run"


def _gaps(run: Run) -> list[float]:
    return [gap for answer in run.answers for gap in answer.gaps]


def _figures(run: Run) -> Iterator[str]:
    first = [answer.first_token_seconds for answer in run.answers]
    yield WORKLOADS[run.workload]
    yield str(run.concurrency)
    for values in (first, _gaps(run)):
        yield from (f"{1e3 * quantile(values, share):.1f}" for share in (0.5, 0.99))
    yield f"{run.requests_per_second:.2f}"
    yield f"{sum(answer.num_tokens for answer in run.answers) / run.seconds:.0f}"
    yield "" if run.gpu_busy is None else f"{run.gpu_busy:.0%}"
    yield "" if run.gpu_peak_bytes is None else f"{run.gpu_peak_bytes / 1e9:.1f}"


def _head(*cells: str) -> Iterator[str]:
    yield _row(*cells)
    yield "|---" * len(cells) + "|"


def _row(*cells: object) -> str:
    return f"| {' | '.join(map(str, cells))} |"


def main() -> None:
    """Print the report of the archives named."""
    sys.stdout.writelines(f"{line}\n" for line in Report(map(Path, sys.argv[1:])).lines())


if __name__ == "__main__":
    main()
