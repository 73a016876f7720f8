"""Workers and the sink are killed at random moments; memory does not grow with the data set."""

import random
import subprocess
import sys
import time
from collections import Counter

import pytest
from click.testing import CliRunner
from client.batches import read
from client.helpers import COMMAND
from video_llava_client.batch.storage import Address
from video_llava_client.cli import app
from video_llava_client.testing import FakeServer, Reply

from client import data_sets


def echo(request):
    return Reply(request.prompt.split()[-2], seconds_per_token=0.01)


def merged(folder, into):
    result = CliRunner().invoke(app, ["batch", "merge", str(folder), str(into)])
    assert result.exit_code == 0, result.output
    return read(into)


def start(server, tmp_path, *options):
    arguments = [tmp_path / "in", f"{tmp_path}/out/", "--url", server.url, "--concurrency", "8", *MAPPED, *options]
    return subprocess.Popen([*COMMAND, "batch", *map(str, arguments)], stderr=subprocess.DEVNULL)


MAPPED = ("--id-column", "key", "--question-column", "ask")


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_after_kills_each_row_has_one_record(tmp_path, kind):
    """A kill costs one part at most: what was answered since the last one, and what was in flight."""
    choices, num_rows, last = random.Random(7), 400, 3
    for number in range(8):
        found = data_sets.rows(num_rows)[number::8]
        Address.of(str(tmp_path / "in" / f"{number}.parquet")).write([data_sets.parquet(found)])
    with FakeServer(script=echo, num_threads=40) as server:
        for num_kills in range(last + 1):
            workers = [
                start(server, tmp_path, "--shard", f"{n}/2", "--part-seconds", "0.2", "--part-format", kind)
                for n in (0, 1)
            ]
            before = len(server.requests)
            if num_kills == last:
                assert [worker.wait(120) for worker in workers] == [0, 0]
            else:
                until = time.monotonic() + 60
                while len(server.requests) < before + 25 and time.monotonic() < until:
                    time.sleep(0.01)
                time.sleep(choices.uniform(0, 0.3))
                for worker in workers:
                    worker.kill()
                    worker.wait(60)
        records = merged(tmp_path / "out", tmp_path / "all.jsonl")
        assert Counter(record["id"] for record in records) == Counter(f"k{n:05d}" for n in range(num_rows))
        assert {record["text"] for record in records} == {f"q{n}?" for n in range(num_rows)}
        asked = Counter(request.prompt for request in server.requests)
    assert max(asked.values()) <= 1 + last
    assert sum(asked.values()) < 2 * num_rows


def test_nothing_is_asked_more_than_twice_for_one_kill(tmp_path):
    num_rows = 200
    Address.of(str(tmp_path / "in" / "one.parquet")).write([data_sets.parquet(data_sets.rows(num_rows))])
    with FakeServer(script=echo, num_threads=40) as server:
        worker = start(server, tmp_path, "--part-seconds", "0.1")
        until = time.monotonic() + 60
        while not list((tmp_path / "out").glob("part-*.jsonl")) and time.monotonic() < until:
            time.sleep(0.01)
        worker.kill()
        worker.wait(60)
        assert start(server, tmp_path).wait(120) == 0
        asked = Counter(request.prompt for request in server.requests)
    assert (len(asked), max(asked.values()) <= 2) == (num_rows, True)
    assert sum(asked.values()) < 2 * num_rows
    assert len(merged(tmp_path / "out", tmp_path / "all.jsonl")) == num_rows


MEASURED = """
import asyncio, sys
from contextlib import asynccontextmanager
from video_llava_client import StageSeconds
from video_llava_client.batch import Counts, run
from video_llava_client.batch.columns import Columns
from video_llava_client.batch.dataset import DataSet, Shard
from video_llava_client.batch.merge import merge, read_state
from video_llava_client.batch.parts import Flush, Parts
from video_llava_client.batch.storage import Address

class Answer:
    server_load = None
    text, finish_reason, num_attempts = "a caption of some twenty words " * 4, "stop", 1
    num_input_tokens = num_cached_tokens = num_output_tokens = 9
    frames, stage_seconds = (), StageSeconds(*[0.1] * 10)

class Clip:
    class frames: nbytes = 1_200_000

class Stream:
    async def __anext__(self): raise StopAsyncIteration
    async def until_done(self): return Answer

class Client:
    async def load(self, video, **window):
        assert len(video["bytes"]) > 1000
        return Clip
    @asynccontextmanager
    async def stream(self, **options):
        await asyncio.sleep(0)
        yield Stream()

source, out = sys.argv[1:]
with Parts(Address.of(out), Shard(), options={}, flush=Flush(num_rows=5000)) as output:
    rows = DataSet(source, Columns(id_column="key", question_column="ask", video_column=VIDEO)).rows()
    asyncio.run(run(Client(), rows, output, counts := Counts(), concurrency=16, patience_seconds=1, defaults={}))
status = open("/proc/self/status").read()  # not getrusage, which counts what the parent had
print(counts.num_answered, int(status.split("VmHWM:")[1].split()[0]) // 1024)
"""


def measured(source, out, *, video=None):
    """Return how many rows a batch with a client that costs nothing answered, and its greatest memory in MB."""
    command = [sys.executable, "-c", MEASURED.replace("VIDEO", repr(video)), str(source), str(out)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=250, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return tuple(map(int, done.stdout.split()))


def test_memory_does_not_grow_with_the_rows(tmp_path):
    """From 1,000 to 100,000 rows: what stays is 100 bytes for the id of each, and the part in the making."""
    found = {}
    for num_files in (1, 100):
        for number in range(num_files):
            rows = [{"key": f"{number}-{n}", "ask": "?"} for n in range(1000)]
            Address.of(str(tmp_path / f"{num_files}" / f"{number}.parquet")).write([data_sets.parquet(rows)])
        num_answered, found[num_files] = measured(tmp_path / f"{num_files}", tmp_path / f"out-{num_files}")
        assert num_answered == 1000 * num_files
    print(found)  # noqa: T201
    assert found[100] - found[1] < 60


@pytest.mark.parametrize("kind", ["parquet", "tar"])
def test_memory_does_not_grow_with_a_row_group_or_a_tar(tmp_path, kind):
    """Two hundred clips of 1 MB in one row group, or one tar; at most 33 of them are in memory.

    A page of Parquet is read whole. pyarrow looks at a page's size every `write_batch_size` values only.
    """
    clip, sizes = random.Random(7).randbytes(1 << 20), {}
    for count in (20, 200):
        found = data_sets.rows(count, clip)
        content = (
            data_sets.tar(data_sets.samples(found))
            if kind == "tar"
            else data_sets.parquet(found, use_dictionary=False, write_batch_size=1)
        )
        Address.of(str(tmp_path / f"{count}.{kind}")).write([content])
        num_answered, sizes[count] = measured(tmp_path / f"{count}.{kind}", tmp_path / f"{count}", video="video")
        assert num_answered == count
    print(sizes)  # noqa: T201
    assert sizes[200] - sizes[20] < 100
