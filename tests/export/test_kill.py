"""A killed export: SIGKILL, at moments that nobody chose."""

import os
import random
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest
from video_llava_export.check import check
from video_llava_export.random_checkpoint import make_checkpoint

NUM_KILLS = 10

# One process imports everything once, then forks an export for each line it reads. Graphs are small files, so that the
# moments spread over all that touches the disk; verification and the switch are the real ones.
SERVER = """
import os, sys, time
from pathlib import Path
from video_llava_export import exporter
from video_llava_export.checkpoint import open_checkpoint
from video_llava_export.graph import weights_path

def write_graph(_encoder, path, **_):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"graph")
    weights_path(path).write_bytes(b"weights")

exporter.write_graph = write_graph
exporter._verify_encoder = lambda *_: None
exporter.can_compare_logits = lambda _: False
for line in sys.stdin:
    source, target = line.split()
    child = os.fork()
    if not child:
        exporter.export(open_checkpoint(source), Path(target))
        os._exit(0)
    print(child, flush=True)
    print(os.waitpid(child, 0)[1], flush=True)
"""


@pytest.fixture(scope="module")
def exports():
    """`start(source, target)` begins an export and returns its pid; `end()` waits and returns its status."""
    with subprocess.Popen(
        [sys.executable, "-c", SERVER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as server:
        orders, replies = server.stdin, server.stdout
        assert orders is not None
        assert replies is not None

        def start(source: Path, target: Path) -> int:
            orders.write(f"{source} {target}\n")
            orders.flush()
            return int(replies.readline())

        def end() -> int:
            return int(replies.readline())

        yield start, end
        orders.close()


def test_the_target_is_the_old_or_the_new_model_whenever_it_is_killed(small_checkpoint, tmp_path, exports):
    start, end = exports
    make_checkpoint(tmp_path / "other", seed=1)
    sources, target = [small_checkpoint, tmp_path / "other"], tmp_path / "models"
    start(sources[0], target)
    began = time.monotonic()
    start_status = end()
    assert start_status == 0
    duration = time.monotonic() - began
    current, outcomes = str(sources[0]), []
    moments = random.Random(time.time_ns())
    for number in range(NUM_KILLS):
        new = sources[(sources.index(Path(current)) + 1) % 2]
        process = start(new, target)
        # From the first write to a little past the end.
        time.sleep(moments.uniform(0, 1.1 * duration))
        with suppress(ProcessLookupError):  # the moment was past its end
            os.kill(process, signal.SIGKILL)
        end()
        checked = check(target, hashes=True)
        own = [problem for problem in checked.problems if "onnx" not in problem]
        assert own == [], f"kill {number}"
        assert checked.manifest["source"] in (current, str(new))
        outcomes.append(checked.manifest["source"] == str(new))
        current = checked.manifest["source"]
    assert not all(outcomes)
    start(sources[0], target)
    assert end() == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["models", "other"]
