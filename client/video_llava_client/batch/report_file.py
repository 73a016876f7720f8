"""A report as a table, and as a file: JSON, or a page that needs no other file."""

from __future__ import annotations

import html
import io
import json
import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import OptionError
from .report import Report

if TYPE_CHECKING:
    from rich.table import Table

_SECONDS = 10.0
_ENDINGS = (".json", ".html")


class ReportFile:
    """A file that has the report of a run while it runs, and after it was killed.

    Args:
        path: Ends with .json or .html.
        report: Of the run.
        title: Of the page.
        num_gpus: Of the server, if known.

    Raises:
        OptionError: It cannot be written.
    """

    def __init__(self, path: Path, report: Report, *, title: str, num_gpus: float | None = None) -> None:
        self._path = path
        self._report = report
        self._title = title
        self._num_gpus = num_gpus
        self._written_at = 0.0
        self.write()

    def update(self) -> None:
        """Write what there is, if that was ten seconds ago."""
        if time.monotonic() >= self._written_at + _SECONDS:
            self.write()

    def write(self) -> None:
        """Write what there is. Raises OptionError."""
        write(self._path, self._report.to_json(num_gpus=self._num_gpus), title=self._title)
        self._written_at = time.monotonic()


def table(report: Mapping[str, Any]) -> Table:
    """Return what `Report.to_json` made as a table of two columns."""
    from rich.table import Table
    from rich.text import Text

    found = Table(box=None, pad_edge=False, show_header=False)
    for name, text in _lines(report):
        found.add_row(Text(name), Text(text))
    return found


def write(path: Path, report: Mapping[str, Any], *, title: str) -> None:
    """Write a report as JSON, or as a page if `path` ends with .html; the file has the old content or all of the new.

    Raises:
        OptionError: It cannot be written, or has another ending.
    """
    if path.suffix not in _ENDINGS:
        raise OptionError(f"{path} must end with {' or '.join(_ENDINGS)}")
    text = page(title, report) if path.suffix == ".html" else json.dumps(report, ensure_ascii=False, indent=1) + "\n"
    new = path.with_name(f"{path.name}.{os.getpid()}.new")
    try:
        new.write_bytes(text.encode("utf-8", "backslashreplace"))
        new.replace(path)
    except OSError as exc:
        new.unlink(missing_ok=True)
        raise OptionError(f"{path} cannot be written ({exc.strerror}): name another file") from exc


def page(title: str, report: Mapping[str, Any]) -> str:
    """Return a page that needs no other file, with the table, and with the JSON for programs."""
    from rich.console import Console

    console = Console(record=True, file=io.StringIO(), width=140)
    console.print(table(report))
    state = "" if report["is_finished"] else ", not finished"
    head = f"{report['began']} to {report['ended']}{state}"
    data = json.dumps(report, ensure_ascii=False).replace("<", "\\u003c")
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{html.escape(title)}</title>'
        '<body style="font: 14px/1.5 sans-serif; margin: 2em; color: #1c2530; background: #fff">'
        f"<h1>{html.escape(title)}</h1><p>{html.escape(head)}</p>{_bar(report['stage_shares'])}"
        f'<pre style="font: 13px/1.5 monospace">{console.export_html(inline_styles=True, code_format="{code}")}</pre>'
        f'<script type="application/json" id="report">{data}</script>\n'
    )


def _bar(shares: Mapping[str, float]) -> str:
    """Return the stages as one bar, each as wide as its share."""
    style = "overflow: hidden; padding: 4px 0; text-align: center; background: hsl({} 60% 75%); flex: {:.4f} 0 0"
    stages = (
        f'<div title="{stage} {share:.1%}" style="{style.format(360 * place // len(shares), share)}">{stage}</div>'
        for place, (stage, share) in enumerate(shares.items())
        if share
    )
    return f'<div style="display: flex; max-width: 70em">{"".join(stages)}</div>'


def _lines(report: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    rates, shares = report["per_second"], report["stage_shares"]
    runs = f" by {report['num_runs']} runs" if report["num_runs"] > 1 else ""
    num_rows = report["num_answered"] + report["num_failed"]
    yield "rows", f"{num_rows:,} asked{runs} in {report['wall_seconds']:,.1f} s: {rates['rows']:,.2f}/s"
    if report["num_clips"]:
        yield "clips", f"{report['num_clips']:,}: {rates['clips']:,.2f}/s{_a_gpu(report, 'clips')}"
        hours = f"{report['video_seconds'] / 3600:,.2f} hours: {rates['video_seconds']:,.1f} hours an hour"
        yield "video", f"{hours}{_a_gpu(report, 'video_seconds')}"
    cached = report["num_cached_tokens"] / max(1, report["num_input_tokens"])
    prompts = f"{report['num_input_tokens']:,}: {rates['input_tokens']:,.0f}/s"
    yield "prompt tokens", f"{prompts}{_a_gpu(report, 'input_tokens')}, {cached:.0%} from the cache"
    outputs = f"{report['num_output_tokens']:,}: {rates['output_tokens']:,.0f}/s"
    yield "output tokens", f"{outputs}{_a_gpu(report, 'output_tokens')}"
    yield (
        "time of a row",
        ", ".join(f"{stage} {share:.1%}" for stage, share in shares.items() if share >= 0.0005) or "-",
    )
    yield "at a time", f"{report['mean_decoding']:.1f} decoding, {report['mean_in_server']:.1f} in the server"
    for name, failures in report["errors"].items():
        yield f"{failures['count']:,} {name}", _examples(failures)


def _a_gpu(report: Mapping[str, Any], name: str) -> str:
    return f", {report['per_second_and_gpu'][name]:,.2f} a GPU" if report["num_gpus"] else ""


def _examples(failures: Mapping[str, Any]) -> str:
    more = ", …" if failures["count"] > len(failures["ids"]) else ""
    return f"{', '.join(failures['ids'])}{more} ({' '.join(failures['message'].split())[:120]})"
