"""`make bench`: measures, one process after the other, and reports. See `--help`."""

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from rich.console import Console

from .plan import PLANS
from .plot import write_plot
from .records import Result
from .report import Report
from .table import print_report

_ROOT = Path(__file__).parents[2]
_STEP_TIMEOUT_SECONDS = 600
_WIDTH = 200
CONTESTANTS = ("hugging_face", "in_process", "in_process_int8", "triton", "triton_int8", "vllm_serve")
# The others are far from these.
IN_ROUNDS = CONTESTANTS[1:]
STEPS = ("prepare", "machine", *(f"contestants.{name}" for name in CONTESTANTS), "stages")
_DESCRIPTION = """
Asks the same questions about the same clips of: Hugging Face's model.generate, one by one and in batches; this server's
engine in process and this server, each in bfloat16 and with its language model in int8; vllm serve with a LLaVA-1.5 of
the same weights; all but the first in two rounds. Prints a table; writes it, report.json and a plot into --folder.
Nothing else should run on the machine meanwhile.
"""


def main() -> None:
    """Run all steps, or those that are asked for, and report."""
    options = _options()
    plan = "quick" if options.quick else "full"
    folder: Path = options.folder / plan
    folder.mkdir(parents=True, exist_ok=True)
    started = time.perf_counter()
    steps = options.only or STEPS
    of_others = {step: _result_paths(folder, step, plan) for step in STEPS if step not in steps}
    if missing := [step for step, paths in of_others.items() if not all(path.exists() for path in paths)]:
        sys.exit(f"{folder} has no results of {', '.join(missing)} yet: run all steps once, without --only")
    for number in range(PLANS[plan].num_rounds):
        for step in steps if number % 2 == 0 else reversed(steps):
            paths = _result_paths(folder, step, plan)
            if number < len(paths):
                _run_step(step, plan, folder, paths[number])
    _report(folder, plan)
    print(f"{time.perf_counter() - started:.0f} s in all; report.json, .md and .png in {folder}", flush=True)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make bench", description=_DESCRIPTION)
    parser.add_argument("--quick", action="store_true", help="a few minutes with a tiny model, to see that it works")
    parser.add_argument("--folder", type=Path, default=_ROOT / "build/bench", help="for checkpoints and results")
    parser.add_argument(
        "--only",
        action="append",
        choices=STEPS,
        help="run this step only (may be given several times) and take the others' results from the last run",
    )
    return parser.parse_args()


def _run_step(step: str, plan: str, folder: Path, result: Path) -> None:
    print(f"== {step}", flush=True)
    started = time.perf_counter()
    command = [sys.executable, "-m", "bench.step", step, plan, str(folder), str(result)]
    # The package lies in tests/, whose folder Python does not search by itself.
    environment = {**os.environ, "PYTHONPATH": str(_ROOT / "tests")}
    subprocess.run(command, check=True, env=environment, timeout=_STEP_TIMEOUT_SECONDS)
    print(f"== {step}: {time.perf_counter() - started:.0f} s", flush=True)


def _result_paths(folder: Path, step: str, plan: str) -> list[Path]:
    """One for each round that the step takes part in."""
    num_rounds = PLANS[plan].num_rounds if step.removeprefix("contestants.") in IN_ROUNDS else 1
    names = [step, *(f"{step}.{number}" for number in range(2, num_rounds + 1))]
    return [folder / f"{name}.json" for name in names]


def _report(folder: Path, plan: str) -> None:
    def read(step: str) -> list[Any]:
        return [json.loads(path.read_text(encoding="utf-8")) for path in _result_paths(folder, step, plan)]

    rounds = [values for name in CONTESTANTS for values in read(f"contestants.{name}")]
    results = [Result.from_json(values) for each in rounds for values in each]
    report = Report(PLANS[plan].shape, results, machine=read("machine")[0], stages=read("stages")[0])
    (folder / "report.json").write_text(json.dumps(report.to_json(), indent=1) + "\n", encoding="utf-8")
    write_plot(report, folder / "report.png")
    with (folder / "report.md").open("w", encoding="utf-8") as file:
        print_report(report, Console(file=file, width=_WIDTH))
    # Rich takes 80 columns where it prints into a file or a pipe.
    print_report(report, Console(width=None if sys.stdout.isatty() else _WIDTH))


if __name__ == "__main__":
    main()
