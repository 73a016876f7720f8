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
CONTESTANTS = ("hugging_face", "in_process", "triton", "vllm_serve")
STEPS = ("prepare", "machine", *(f"contestants.{name}" for name in CONTESTANTS), "stages")
_DESCRIPTION = """
Asks the same questions about the same clips of: Hugging Face's model.generate, one by one and in batches; this server's
engine in process; this server; vllm serve with a LLaVA-1.5 of the same weights. Prints a table; writes it, report.json
and a plot into --folder. Nothing else should run on the machine meanwhile.
"""


def main() -> None:
    """Run all steps, or those that are asked for, and report."""
    options = _options()
    folder: Path = options.folder / ("quick" if options.quick else "full")
    folder.mkdir(parents=True, exist_ok=True)
    started = time.perf_counter()
    steps = options.only or STEPS
    if missing := [step for step in STEPS if step not in steps and not _result_path(folder, step).exists()]:
        sys.exit(f"{folder} has no results of {', '.join(missing)} yet: run all steps once, without --only")
    for step in steps:
        _run_step(step, "quick" if options.quick else "full", folder)
    _report(folder, "quick" if options.quick else "full")
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


def _run_step(step: str, plan: str, folder: Path) -> None:
    print(f"== {step}", flush=True)
    started = time.perf_counter()
    command = [sys.executable, "-m", "bench.step", step, plan, str(folder), str(_result_path(folder, step))]
    # The package lies in tests/, whose folder Python does not search by itself.
    environment = {**os.environ, "PYTHONPATH": str(_ROOT / "tests")}
    subprocess.run(command, check=True, env=environment, timeout=_STEP_TIMEOUT_SECONDS)
    print(f"== {step}: {time.perf_counter() - started:.0f} s", flush=True)


def _result_path(folder: Path, step: str) -> Path:
    return folder / f"{step}.json"


def _read(folder: Path, step: str) -> Any:
    return json.loads(_result_path(folder, step).read_text(encoding="utf-8"))


def _report(folder: Path, plan: str) -> None:
    results = [Result.from_json(values) for name in CONTESTANTS for values in _read(folder, f"contestants.{name}")]
    report = Report(PLANS[plan].shape, results, machine=_read(folder, "machine"), stages=_read(folder, "stages"))
    (folder / "report.json").write_text(json.dumps(report.to_json(), indent=1) + "\n", encoding="utf-8")
    write_plot(report, folder / "report.png")
    with (folder / "report.md").open("w", encoding="utf-8") as file:
        print_report(report, Console(file=file, width=200))
    print_report(report, Console())


if __name__ == "__main__":
    main()
