"""The command: reports where they were asked for, exit codes, and what it writes for perf_analyzer."""

import base64
import json
import re
import shlex
import signal
import socket
import subprocess
import sys
import threading
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from video_llava_client.testing import Hang, Refuse, Reply
from video_llava_load import cli

SCENARIO = """
drain_seconds = 20
[mix]
video_cold = 1
text = 1
[requests]
output_tokens = 4
[saturation]
rates = [4, 8]
warmup_seconds = 0.5
trial_seconds = 1
trial_requests = 1
below_ms = 20000
[[phase]]
seconds = 1
rate = 12
"""


@pytest.fixture
def file(scenario_file):
    return scenario_file(SCENARIO)


def command(*arguments, code: int = 0):
    result = CliRunner().invoke(cli.app, list(map(str, arguments)))
    assert result.exit_code == code, result.output
    return result


def test_a_run_and_its_reports(server, file, tmp_path):
    server.then(Reply("a b c d e f"))
    metrics = tmp_path / "metrics"
    metrics.write_text("")
    where = ("--json", tmp_path / "run.json", "--html", tmp_path / "run.html", "--metrics-url", metrics.as_uri())
    shown = command("run", file, "--url", server.url, "--scale", 2, "--seconds", 0.5, *where).stdout
    assert "time to first token, ms" in shown
    report = json.loads((tmp_path / "run.json").read_text())
    assert report["answered_count"] == len(server.requests) == len(report["requests"])
    assert report["server_counters"] == {}
    assert "counted by the server" in shown
    assert report["server"]["limits"]["image_size"] == 56
    (phase,) = report["scenario"]["phases"]
    assert (phase["rate"], phase["seconds"]) == ([24, 24], 0.5)
    page = (tmp_path / "run.html").read_text()
    assert "time to first token, ms" in page
    assert "window.templateArgs" in page
    # One file, apart from Locust's icon.
    assert not re.search(r"""<(?:script|iframe)[^>]*\b(?:src|href)\s*=""", page)


@pytest.mark.parametrize(
    ("steps", "code", "text"),
    [
        ((Reply(), Refuse("INTERNAL: the engine [/b] died")), 3, "Internal: the engine [/b] died"),
        ((Refuse(),), 1, "Unavailable"),
    ],
)
def test_failures_have_exit_codes_of_their_own(server, file, steps, code, text):
    server.then(*steps)
    assert text in command("run", file, "--url", server.url, code=code).stdout


def test_no_server(file):
    (line,) = command("run", file, "--url", "127.0.0.1:1", code=1).stderr.splitlines()
    assert line.startswith("video-llava: ")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("run", "none"), "neither one of mixed, saturation, smoke nor a file"),
        (("run", "smoke", "--scale", "0"), "--scale and --seconds must be above 0"),
        (("run", "smoke", "--json", "/nowhere/run.json"), "/nowhere/run.json cannot be written"),
        (("run", "smoke", "--metrics-url", "http://127.0.0.1:1/metrics"), "cannot be read .* give Triton's"),
        (("run", "smoke", "--url", "http://127.0.0.1:1"), "url must be host:port"),
        (("scenarios", "none"), "no scenario 'none'"),
    ],
)
def test_bad_input(arguments, message):
    result = command(*arguments, code=2)
    assert not result.stdout
    assert re.search(message, result.stderr)


def test_a_saturation_search(server, file, tmp_path):
    where = ("--json", tmp_path / "found.json", "--html", tmp_path / "found.html")
    assert "met up to 8.00 arrivals/s" in command("saturation", file, "--url", server.url, *where).stdout
    assert json.loads((tmp_path / "found.json").read_text())["highest_rate_met"] == 8
    assert "met up to 8.00" in (tmp_path / "found.html").read_text()


def test_the_readme_has_all_exit_codes():
    readme = Path(cli.__file__).parents[1] / "README.md"
    in_readme = re.findall(r"^\| (\d+) \|", readme.read_text(encoding="utf-8"), re.MULTILINE)
    assert in_readme == re.findall(r"^  (\d+) ", cli.EXIT_CODES, re.MULTILINE) == ["0", "1", "2", "3", "130"]


def test_scenarios_are_listed_and_printed():
    assert [line.split()[0] for line in command("scenarios").stdout.splitlines()] == ["mixed", "saturation", "smoke"]
    assert "[[phase]]" in command("scenarios", "smoke").stdout


def test_inputs_of_perf_analyzer(server, tmp_path):
    out = tmp_path / "inputs.json"
    line = command("perf-analyzer", out, "--scenario", "smoke", "--entries", 20, "--url", server.url).stdout
    assert shlex.split(line)[:1] + shlex.split(line)[9:11] == ["perf_analyzer", "--input-data", str(out)]
    entries = json.loads(out.read_text())["data"]
    assert len(entries) == 20
    media = set()
    for entry in entries:
        sent = {name: entry[name] for name in ("video_frames", "image_frames") if name in entry}
        assert set(entry) - set(sent) == {"text_input", "sampling_parameters", "stream"}
        for tensor in sent.values():
            # perf_analyzer crashes on a tensor without elements.
            assert len(base64.b64decode(tensor["content"]["b64"])) == np.prod(tensor["shape"]) > 0
        num_frames = tuple(sent[name]["shape"][0] if name in sent else 0 for name in ("video_frames", "image_frames"))
        prompt = entry["text_input"][0]
        assert (8 * prompt.count("<video>"), prompt.count("<image>")) == num_frames
        media.add(num_frames)
    assert media == {(8, 0), (0, 1), (0, 0)}


def test_perf_analyzer_needs_more_than_conversations(server, scenario_file, tmp_path):
    file = scenario_file("[mix]\nchat = 1\n[[phase]]\nseconds = 1\nrate = 1\n")
    arguments = ("perf-analyzer", tmp_path / "inputs.json", "--scenario", file, "--url", server.url)
    assert "has only conversations" in command(*arguments, code=2).stderr


@pytest.fixture
def started(server, scenario_file, tmp_path) -> Iterator[Callable[..., subprocess.Popen]]:
    """Return `started(command, option...)`: a process on a scenario without an end."""
    processes = []
    endless = SCENARIO.replace("[[phase]]\nseconds = 1", "[[phase]]\nseconds = 300")

    def start(*arguments: str) -> subprocess.Popen:
        program = [sys.executable, "-c", "from video_llava_load.cli import main; main()"]
        where = ("--url", server.url, "--json", str(tmp_path / "run.json"))
        what, *options = arguments
        process = subprocess.Popen([*program, what, str(scenario_file(endless)), *options, *where])
        processes.append(process)
        return process

    yield start
    for process in processes:
        process.kill()
        process.wait()


def test_an_interrupted_run_reports_what_there_is_and_locusts_page_shows_it_live(server, started, port, tmp_path):
    server.then(Reply("a b"), Hang())
    process = started("run", "--web-port", str(port))
    wait_until(lambda: "request latency" in get(f"http://127.0.0.1:{port}/stats/requests"), process)
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 130
    report = json.loads((tmp_path / "run.json").read_text())
    assert (report["interrupted"], report["answered_count"]) == (True, 1)
    # The last ones may not have reached the server.
    assert report["unfinished_count"] + 1 == report["sent_count"] >= len(server.requests) > 0


def test_users_from_locusts_page(server, started, port, tmp_path):
    server.then(Reply("a b c d"))
    process = started("web", "--web-port", str(port))
    users = urllib.parse.urlencode({"user_count": 20, "spawn_rate": 20, "host": "x"}).encode()
    wait_until(lambda: '"success":true' in get(f"http://127.0.0.1:{port}/swarm", users), process)
    wait_until(lambda: len(server.requests) > 5, process)
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 0
    report = json.loads((tmp_path / "run.json").read_text())
    assert report["sent_count"] >= len(server.requests) > 5
    assert report["answered_count"] > 0


@pytest.fixture
def port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return listening.getsockname()[1]


def get(url: str, body: bytes | None = None) -> str:
    try:
        with urllib.request.urlopen(url, body, timeout=20) as response:
            return response.read().decode().replace(" ", "" if body else " ")
    except OSError:
        return ""


def wait_until(condition: Callable[[], object], process: subprocess.Popen) -> None:
    pause = threading.Event()
    for _ in range(600):
        if condition():
            return
        assert process.poll() is None, "it ended early"
        pause.wait(0.1)
    pytest.fail("it never came true")
