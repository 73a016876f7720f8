"""A killed export: SIGKILL, at moments that nobody chose."""

import os
import random
import signal
import subprocess
import sys
import time
from contextlib import suppress

import pytest
from video_llava_export.check import check

NUM_KILLS = 6

# One process imports everything once, then forks an export for each line it reads. Graphs are small files, so that the
# moments spread over all that touches the disk; the language model's verification and the rename are the real ones.
SERVER = """
import gc, os, sys, time
from pathlib import Path
from video_llava_export import exporter
from video_llava_export.checkpoint import open_checkpoint

def write_graph(_encoder, path, **_):
    path.parent.mkdir(parents=True, exist_ok=True)
    return path.write_bytes(b"graph")

exporter.write_graph = write_graph
exporter.share_weights = lambda *_: None
exporter.verify_encoder = lambda *_, **__: None
exporter.can_compare_logits = lambda _: False
gc.freeze()
for line in sys.stdin:
    source, into, model_id = line.split()
    child = os.fork()
    if not child:
        options = exporter.ExportOptions(model_id=model_id)
        exporter.export(open_checkpoint(source), Path(into), options=options)
        os._exit(0)
    print(child, flush=True)
    print(os.waitpid(child, 0)[1], flush=True)
"""


@pytest.fixture(scope="module")
def exports():
    """`start(source, into, id)` begins an export and returns its pid; `end()` waits and returns its status."""
    with subprocess.Popen(
        [sys.executable, "-c", SERVER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as server:
        orders, replies = server.stdin, server.stdout
        assert orders is not None
        assert replies is not None

        def start(*words: object) -> int:
            print(*words, file=orders, flush=True)
            return int(replies.readline())

        def end() -> int:
            return int(replies.readline())

        yield start, end
        orders.close()


def test_a_model_folder_is_whole_or_absent_whenever_its_export_is_killed(small_checkpoint, tmp_path, exports):
    start, end = exports
    start(small_checkpoint, tmp_path, "first")
    began = time.monotonic()
    assert end() == 0
    duration = time.monotonic() - began
    names = {"first"}
    for number in range(NUM_KILLS):
        process = start(small_checkpoint, tmp_path, f"killed-{number}")
        # From the first write to a little past the end.
        time.sleep(random.uniform(0, 1.1 * duration))
        with suppress(ProcessLookupError):  # the moment was past its end
            os.kill(process, signal.SIGKILL)
        end()
        placed = {path.name for path in tmp_path.iterdir() if not path.name.startswith(".")}
        assert names <= placed <= names | {f"killed-{number}"}
        for name in placed - names:
            problems = [problem for problem in check(tmp_path / name).problems if "onnx" not in problem]
            assert problems == [], f"kill {number}"
        names = placed
    assert len(names) <= NUM_KILLS, "no export was killed"
    start(small_checkpoint, tmp_path, "last")
    assert end() == 0
    assert {path.name for path in tmp_path.iterdir()} == names | {"last"}
