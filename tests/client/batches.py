"""Runs batches in this process and in others."""

import json
import re
import subprocess
import sys
import time

from click.testing import CliRunner
from client.helpers import COMMAND
from video_llava_client.cli import app
from video_llava_client.testing import Reply


def echo(request):
    return Reply(request.prompt.split()[1], seconds_per_token=0.005)


def write(path, *lines):
    path.write_text("".join(f"{line if isinstance(line, str) else json.dumps(line)}\n" for line in lines))


def read(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def run(server, *arguments):
    return CliRunner().invoke(app, ["batch", *map(str, arguments), "--url", server.url, "--attempts", "1"])


def numbers(count):
    return [{"id": f"line-{number}", "question": f"{number}?"} for number in range(count)]


def limited(num_bytes, *arguments):
    """Run a batch whose files may not grow beyond `num_bytes`, as on a full disk."""
    # The signal is off that Linux sends in this case, and no full disk does.
    code = f"import resource, signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN); limit = {num_bytes};"
    code += "resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit));"
    command = [sys.executable, "-c", code + COMMAND[2], "batch", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


def accounts(result):
    """Return how many lines were answered, failed, are left and had a record before, by the summary."""
    found = [re.search(rf"(\d+) {what}", result.stderr) for what in ("answered,", "failed", "not answered", "had a")]
    return tuple(int(number[1]) if number else 0 for number in found)


def start(server, source, target):
    arguments = [str(source), str(target), "--url", server.url, "--concurrency", "8"]
    return subprocess.Popen(
        [*COMMAND, "batch", *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )


def wait_until(is_true, process):
    deadline = time.monotonic() + 30
    while not is_true():
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.002)


def pipe(server, *arguments):
    """Start a batch from a pipe to a pipe."""
    command = [*COMMAND, "batch", "-", "-", "--url", server.url, *arguments]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
