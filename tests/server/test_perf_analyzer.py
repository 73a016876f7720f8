"""Triton's own perf_analyzer gets through what `video-llava-load perf-analyzer` writes for it, on the real server."""

import json
import shlex

from click.testing import CliRunner
from support import perf_analyzer
from support.triton import metrics
from video_llava_load.cli import app

NUM_ENTRIES = 12


def test_it_sends_each_entry_once_and_each_is_answered(server, wait_for, tmp_path):
    inputs = tmp_path / "inputs.json"
    told = CliRunner().invoke(
        app,
        ["perf-analyzer", str(inputs), "--scenario", "smoke", "--entries", str(NUM_ENTRIES), "--url", server.grpc_url],
        catch_exceptions=False,
    )
    wait_for(lambda: metrics(server.metrics_url)["vllm:num_requests_running{vicuna}"] == 0)
    before = metrics(server.metrics_url)
    done = perf_analyzer.run(shlex.split(told.stdout), timeout_seconds=120)
    assert done.returncode == 0, done.stdout

    (experiment,) = json.loads(inputs.with_suffix(".profile.json").read_text())["experiments"]
    assert len(experiment["requests"]) == NUM_ENTRIES
    # With `stream`, a response for each piece of text.
    assert all(len(request["response_timestamps"]) > 1 for request in experiment["requests"])
    success = "nv_inference_request_success{video_llava}"
    assert metrics(server.metrics_url)[success] - before[success] == NUM_ENTRIES
