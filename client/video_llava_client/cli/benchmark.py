"""`video-llava benchmark-decode`: what this machine decodes."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Iterator
from contextlib import suppress
from glob import glob
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..errors import OptionError
from .output import as_text, echo_json, exit_codes, note

if TYPE_CHECKING:
    from ..decoding_speed import DecodingSpeed

_NUM_SLOWEST, _NUM_EXAMPLES = 5, 5


@click.argument("paths", metavar="PATH...", nargs=-1, required=True)
@click.option(
    "--processes",
    type=click.IntRange(1, 1024),
    help="The most at a time; by default as many as cores that this process may use.",
)
@click.option(
    "--seconds", type=click.FloatRange(min=0, min_open=True), default=5.0, help="For each number of processes."
)
@click.option("--size", type=click.IntRange(min=1), default=224, help="Width and height of a frame.")
@click.option(
    "--clips-per-second",
    metavar="X",
    type=click.FloatRange(min=0, min_open=True),
    help="How many a server takes; says how many cores that needs.",
)
@click.option("--json", "as_json", is_flag=True, help="Write one JSON object with all that is known.")
def benchmark_decode(
    paths: tuple[str, ...],
    processes: int | None,
    seconds: float,
    size: int,
    clips_per_second: float | None,
    as_json: bool,
) -> None:
    """Measure how many clips this machine decodes per second from these files. Needs no server.

    PATH is a video, a folder with videos below it, or a pattern such as 'clips/*.mp4'. Files are decoded one after the
    other, to see where the time goes, then in 1, 2, 4, ... processes at a time, as `--isolated` does.
    """
    with exit_codes():
        from ..decoding_speed import DecodingSpeed

        speed = DecodingSpeed(list(_videos(paths)), size=size, seconds=seconds)
        speed.measure_stages()
        for number in _numbers(processes or _num_cores()):
            if not as_json:
                note(f"decoding, {number} at a time")
            speed.measure(number)
        if speed.num_failed == speed.num_tried:
            message = next(iter(next(iter(speed.errors.values())).values()))
            raise OptionError(f"none of {speed.num_tried} files can be decoded: {message}"[:500])
        report = _report(speed, clips_per_second)
        if as_json:
            echo_json(report)
        else:
            _print(report)


def _videos(paths: Iterable[str]) -> Iterator[Path]:
    """Yield the files that these arguments name. Raises OptionError where one names none."""
    from ..batch.columns import VIDEOS

    for path in paths:
        found = [path] if Path(path).exists() else sorted(glob(path, recursive=True))  # noqa: PTH207 (it takes absolute ones)
        files = [file for each in map(Path, found) for file in (each.rglob("*") if each.is_dir() else [each])]
        videos = [file for file in files if file.is_file() and (file.suffix[1:].lower() in VIDEOS or str(file) == path)]
        if not videos:
            raise OptionError(f"{path} has no videos: name files, folders or patterns; known are {', '.join(VIDEOS)}")
        yield from videos


def _num_cores() -> int:
    """Return how many cores this process may use: those of its container, too."""
    number = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    with suppress(OSError, ValueError):  # not Linux, or no limit
        quota, period = map(int, Path("/sys/fs/cgroup/cpu.max").read_text().split())
        number = min(number, max(1, quota // period))
    return number


def _numbers(most: int) -> list[int]:
    """Return 1, 2, 4, ... and `most`."""
    return sorted({most, *(2**power for power in range(most.bit_length()))})


def _report(speed: DecodingSpeed, clips_per_second: float | None) -> dict[str, Any]:
    last = speed.speeds[-1]
    total = sum(speed.stage_seconds.values()) or 1.0
    slowest = sorted(speed.seconds_by_file.items(), key=lambda each: -each[1])[:_NUM_SLOWEST]
    a_process = last.clips_per_second / last.num_processes
    return {
        "num_files": speed.num_files,
        "num_tried": speed.num_tried,
        "num_failed": speed.num_failed,
        "stage_shares": {stage: round(seconds / total, 4) for stage, seconds in speed.stage_seconds.items()},
        "cpu_seconds": round(speed.cpu_seconds, 6),
        "speeds": [vars(each) for each in speed.speeds],
        "clips_per_second_and_process": a_process,
        "clips_per_second": clips_per_second,
        "num_processes_needed": clips_per_second and a_process and math.ceil(clips_per_second / a_process),
        "slowest": [{"file": file, "seconds": round(seconds, 3)} for file, seconds in slowest],
        "errors": speed.errors,
    }


def _print(report: dict[str, Any]) -> None:
    from rich.table import Table

    tried = f"{report['num_tried']} of {report['num_files']} files read, {report['num_failed']} of them cannot be used"
    shares = ", ".join(f"{stage} {share:.1%}" for stage, share in report["stage_shares"].items())
    click.echo(f"{tried}\none at a time: {shares}; {report['cpu_seconds']:.3f} s of CPU a clip\n")
    table = Table(box=None, pad_edge=False)
    for head in ("processes", "clips/s", "each", "seconds of video/s"):
        table.add_column(head, justify="right")
    for speed in report["speeds"]:
        rate, number = speed["clips_per_second"], speed["num_processes"]
        figures = (rate, rate / number, speed["video_seconds_per_second"])
        table.add_row(str(number), *(f"{figure:,.2f}" for figure in figures))
    click.echo(as_text(table))
    click.echo("\nslowest: " + ", ".join(f"{each['file']} {each['seconds']:.2f} s" for each in report["slowest"]))
    for kind, messages in report["errors"].items():
        more = ", ..." if len(messages) > _NUM_EXAMPLES else ""
        click.echo(f"{len(messages)} {kind}: {', '.join(list(messages)[:_NUM_EXAMPLES])}{more}")
    if report["clips_per_second"]:
        wanted, number = report["clips_per_second"], report["num_processes_needed"]
        click.echo(f"a server that takes {wanted:g} clips/s needs about {number} of these cores")
