"""The page is one file, needs nothing else, and trusts no text that it did not write itself."""

import json
import re

from support.load import answer, scenario
from video_llava_client import ServerInfo
from video_llava_load.load import Run
from video_llava_load.page import run_page, search_page
from video_llava_load.requests import FAILED
from video_llava_load.saturation import Search, judge
from video_llava_load.scenario import Objectives, Phase

SERVER = ServerInfo("127.0.0.1:1", "2.51.0", (), None)
NASTY = "</script><script>alert(1)</script>"
PHASES = (Phase(seconds=3, rate=(2, 2)),)
PLOTS = ("load", "first-token", "distributions", "tokens", "stages")


def page(*records, phases=PHASES, **changes) -> str:
    wanted = scenario(*phases, objectives=Objectives(time_to_first_token_ms=500), **changes)
    return run_page(Run(wanted, SERVER, 0.0, list(records)), {"vllm:generation_tokens_total": 1234.0})


def body(text: str) -> str:
    """What comes after plotly's own script."""
    return text[text.index("<body>") :]


def plotted(text: str, name: str) -> list[dict]:
    """The traces of one plot."""
    call = text.index(f'"{name}"', text.index("Plotly.newPlot(", text.index(f'id="{name}"')))
    traces, _ = json.JSONDecoder().raw_decode(text, text.index("[", call))
    return traces


def test_it_holds_the_figures_and_the_plots():
    text = body(page(answer(), answer(kind="video_cold"), answer(kind="chat", turn=2)))
    for part in ("time to first token, ms", "100.0", "chat, later", "vllm:generation_tokens_total", "1,234"):
        assert part in text
    for name in PLOTS:
        assert f'<div id="{name}"' in text
    points = plotted(text, "first-token")
    assert {trace["name"] for trace in points} == {"text", "video cold", "chat"}


def test_it_needs_nothing_else():
    text = page(answer())
    outside = r"""<(?:script|link|img|iframe)[^>]*\b(?:src|href)\s*=\s*["'](?!data:)"""
    assert not re.search(outside, body(text)) and not re.search(outside, text[: text.index("<script>")])
    assert "plotly.js v" in text


def test_texts_from_outside_are_texts():
    failed = answer(outcome=FAILED, token_times=[], reason="Internal", message=NASTY)
    phases = (Phase(seconds=1, rate=(1, 1), name=NASTY), Phase(seconds=1, rate=(1, 1)))
    text = body(page(failed, answer(), phases=phases, name=NASTY))
    assert "&lt;script&gt;alert(1)" in text
    assert NASTY not in text


def test_a_run_without_an_answer_has_a_page_too():
    assert "failed or unfinished" in page(answer(outcome=FAILED, token_times=[], reason="Unavailable", message="no"))
    assert "failed or unfinished" in page()


def test_the_page_of_a_search():
    wanted = scenario(Phase(seconds=1, rate=(2, 2)))
    trial = judge(Run(wanted, SERVER, 0.0, [answer()]), 2.0)
    text = body(search_page(Search(wanted.saturation, [trial])))
    assert "met up to 2.00 arrivals/s" in text
    assert [trace["name"] for trace in plotted(text, "rates")] == ["p50", "p90", "p99"]
