"""A batch over data sets: every format in and out, at every kind of address, by shards."""

import io
import json
import os
import subprocess
import sys
from collections import Counter

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from client import data_sets
from client.batches import echo, read, run, write
from client.helpers import COMMAND
from click.testing import CliRunner
from support.processes import free_port
from support.waiting import wait_until
from video_llava_client.batch.columns import Columns
from video_llava_client.batch.dataset import DataSet, Shard
from video_llava_client.batch.storage import Address
from video_llava_client.cli import app
from video_llava_client.testing import FakeServer, Refuse, Reply

MAPPED = ("--id-column", "key", "--question-column", "ask", "--keep", "n")
KEY, SECRET = "test-key", "test-secret-of-s3"
FORMATS = {
    "one.parquet": {"one.parquet": data_sets.parquet},
    "parquet": {"README.md": lambda _: b"# Clips", "data/train-0.parquet": data_sets.parquet},
    "tars/{000..001}.tar": {
        "tars/000.tar": lambda found: data_sets.tar(data_sets.samples(found[:3])),
        "tars/001.tar": lambda found: data_sets.tar(data_sets.samples(found[3:])),
        "tars/002.tar": lambda _: data_sets.tar({}),
    },
    "arrow": {"arrow/dataset_info.json": lambda _: b"{}", "arrow/data-00000-of-00001.arrow": data_sets.arrow},
}


@pytest.fixture
def server():
    with FakeServer(script=echo, num_threads=40) as running:
        yield running


@pytest.fixture(scope="module")
def s3(tmp_path_factory):
    """A bucket of a real server of the S3 protocol, as the environment of pyarrow names it."""
    folder, port = tmp_path_factory.mktemp("s3"), free_port()
    (folder / "bucket").mkdir()
    names = {"NANIO_ACCESS_KEY": KEY, "NANIO_SECRET_KEY": SECRET}
    command = [sys.executable, "-m", "nanio", "serve", "--data-dir", folder, "--host", "127.0.0.1", "--port", str(port)]
    variables = {
        "AWS_ACCESS_KEY_ID": KEY,
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
        # nanio 0.1.7 keeps the checksums that the SDK appends as if they were content.
        "AWS_REQUEST_CHECKSUM_CALCULATION": "when_required",
    }
    with pytest.MonkeyPatch.context() as patch, open(folder / "log", "wb") as log:
        for name, value in variables.items():
            patch.setenv(name, value)
        with subprocess.Popen(command, env=os.environ | names, stdout=log, stderr=log) as process:
            try:
                wait_until(lambda: "Uvicorn running" in (folder / "log").read_text(), timeout_seconds=60)
                yield "s3://bucket"
            finally:
                process.terminate()


@pytest.fixture(params=["local", "memory", "s3"])
def base(request, tmp_path):
    """An address for everything of one test."""
    if request.param == "local":
        return str(tmp_path / "with blank")
    if request.param == "memory":
        fsspec.filesystem("memory").store.clear()
        return "memory://base"
    return f"{request.getfixturevalue('s3')}/{tmp_path.name} with blank"


def put(base, files, found):
    for name, make in files.items():
        Address.of(f"{base}/{name}").write([make(found)])


def merged(base, *options):
    into = f"{base}/merged.jsonl"
    result = CliRunner().invoke(app, ["batch", "merge", f"{base}/out/", into, *options])
    assert result.exit_code == 0, result.output
    return [json.loads(line) for line in Address.of(into).read().splitlines()]


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
@pytest.mark.parametrize("source", FORMATS)
def test_a_data_set_of_every_format(server, base, bikes, source, kind):
    """One record for each row, with its answer, what it keeps, and where it was; the next run asks nothing."""
    put(base, FORMATS[source], data_sets.rows(7, bikes.read_bytes()))
    if source == "parquet":
        base_of = f"{base}/"
    else:
        base_of = f"{base}/{source}"
    arguments = (base_of, f"{base}/out/", *MAPPED, "--part-format", kind)
    result = run(server, *arguments)
    assert result.exit_code == 0, result.output
    records = merged(base, "--ordered")
    assert [(record["id"], record["text"], record["n"]) for record in records] == [
        (f"k{number:05d}", f"q{number}?", number) for number in range(7)
    ]
    assert {record["file"].rpartition("/")[2] for record in records} <= {name.rpartition("/")[2] for name in FORMATS[source]}
    assert all(request.frames for request in server.requests)
    result = run(server, *arguments)
    assert result.exit_code == 0
    assert "7 had a record before" in result.stderr
    assert len(server.requests) == 7
