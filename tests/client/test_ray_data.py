"""What Ray's actors and writers run, without Ray. With Ray, and a node killed: `make ray-batch`."""

import asyncio
import json
from collections import Counter
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from click.testing import CliRunner
from client.batches import read
from video_llava_client.cli import app
from video_llava_client.errors import OptionError, Unavailable
from video_llava_client.ray_data import AskVideoLlava, Columns, PartsSink
from video_llava_client.testing import FakeServer, Refuse, Reply

from client import data_sets

COLUMNS = Columns(question_column="ask", id_column="key")


def echo(request):
    return Reply(request.prompt.split()[-2])


@pytest.fixture
def server():
    with FakeServer(script=echo) as running:
        yield running


def asked(server, *batches, columns=COLUMNS, **options):
    """Return the records of batches that one actor is given at a time."""

    async def ask():
        actor = AskVideoLlava(server.url, columns=columns, **options)
        try:
            return await asyncio.gather(*(tables(actor, batch) for batch in batches))
        finally:
            await actor.close()

    return [record for found in asyncio.run(ask()) for table in found for record in table.to_pylist()]


async def tables(actor, batch):
    return [table async for table in actor(batch)]


def arrays(rows):
    """Return rows as Ray gives them to `map_batches` by default."""
    return {name: np.array([row[name] for row in rows], None if name == "n" else object) for name in rows[0]}


@pytest.mark.parametrize("as_batch", [arrays, pa.Table.from_pylist])
def test_a_record_for_each_row(server, bikes, as_batch):
    rows = data_sets.rows(20, bikes.read_bytes())
    columns = Columns(question_column="ask", id_column="key", keep=("n",))
    records = asked(server, as_batch(rows[:12]), as_batch(rows[12:]), columns=columns, ask={"max_tokens": 3})
    assert [(record["id"], record["text"], record["n"]) for record in records] == [
        (row["key"], row["ask"], row["n"]) for row in rows
    ]
    assert {(record["finish_reason"], record["num_output_tokens"], record["error"]) for record in records} == {
        ("stop", 1, None)
    }
    assert {request.num_media for request in server.requests} == {(1, 0)}
    assert {request.sampling["max_tokens"] for request in server.requests} == {3}


def test_no_more_rows_at_a_time_than_it_says():
    running, most = Counter(), []

    def script(_request):
        running["now"] += 1
        most.append(running["now"])
        return Counting(seconds_per_token=0.02)

    class Counting(Reply):
        def messages(self, request, context, limits):
            yield from super().messages(request, context, limits)
            running["now"] -= 1

    with FakeServer(script=script) as server:
        batches = [pa.Table.from_pylist(data_sets.rows(30)[n::3]) for n in range(3)]
        assert len(asked(server, *batches, concurrency=4)) == 30
    assert max(most) == 4


def test_rows_that_fail_are_records(server, tmp_path):
    rows = [row | {"video": None} for row in data_sets.rows(4)]
    rows[0]["ask"] = None
    rows[1]["video"] = str(tmp_path / "missing.mp4")
    server.then(Refuse("INVALID_ARGUMENT: no"), Reply("Yes."))
    records = asked(server, pa.Table.from_pylist(rows), concurrency=1)
    kinds = [record["error"] and record["error"]["type"] for record in records]
    assert kinds == ["PromptError", "MediaNotFound", "InvalidRequest", None]
    assert [(record["retry"], record["attempts"]) for record in records] == [
        (None, 1),
        (True, 1),
        (None, 1),
        (None, None),
    ]


def test_a_server_that_is_away_ends_the_run(server):
    server.stop()
    with pytest.raises(Unavailable, match="cannot reach"):
        asked(server, arrays(data_sets.rows(3)), patience_seconds=0)


@pytest.mark.parametrize("columns", [Columns(question_column="ask"), Columns(id_column="nobody")])
def test_a_column_that_is_missing(server, columns):
    with pytest.raises(OptionError, match=r"id_column=NAME|no column 'nobody'"):
        asked(server, arrays(data_sets.rows(3)), columns=columns)


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_a_run_resumes_from_its_parts_and_the_command_line_from_them(server, tmp_path, kind):
    rows, out = data_sets.rows(12), f"{tmp_path}/out/"
    server.then(script=lambda request: Refuse("INTERNAL: no") if request.prompt.split()[-2] == "q1?" else echo(request))

    def run(found):
        records = asked(server, arrays(found), out=out, max_attempts=2)
        sink = PartsSink(out, part_format=kind)
        sink.write([pa.Table.from_pylist(records)], None)
        sink.on_write_complete(SimpleNamespace(num_rows=len(records)))
        return [record["id"] for record in records if record["text"] or record["error"]]

    assert run(rows[:8]) == [row["key"] for row in rows[:8]]
    assert run(rows) == ["k00001", "k00008", "k00009", "k00010", "k00011"]
    assert run(rows) == []  # what failed twice is quarantined
    assert status(out) == {"num_answered": 11, "num_retried": 0, "num_quarantined": 1}
    assert merged(out, tmp_path / "all.jsonl") == [row["key"] for row in rows]

    server.then(script=echo)
    (tmp_path / "in.parquet").write_bytes(data_sets.parquet(data_sets.rows(14)))
    options = ("--question-column", "ask", "--id-column", "key", "--retry-quarantined", "--url", server.url)
    result = CliRunner().invoke(app, ["batch", f"{tmp_path}/in.parquet", out, *options])
    assert result.exit_code == 0, result.output
    assert "3 answered, 0 failed, 11 had a record before" in result.stderr
    with pytest.raises(OptionError, match="max_tokens 256 -> 9"):
        asked(server, arrays(rows), out=out, ask={"max_tokens": 9})


def status(out):
    result = CliRunner().invoke(app, ["batch", "status", "--json", out])
    found: dict[str, Any] = json.loads(result.stdout)
    assert found["shards"]["00000-of-00001"]["is_read"]
    return {name: number for name, number in found.items() if name.startswith("num_")}


def merged(out, into):
    result = CliRunner().invoke(app, ["batch", "merge", out, str(into), "--ordered"])
    assert result.exit_code == 0, result.output
    return [record["id"] for record in read(into)]


def test_a_write_that_is_done_twice_is_merged(tmp_path):
    first = pa.table({"id": [1, 2], "text": ["a", None], "error": [None, {"type": "X", "message": "y"}]})
    second = {"id": np.array([3, 4]), "text": np.array(["", None], object)}
    for _ in range(2):
        PartsSink(f"{tmp_path}/out").write([first, second], None)
    assert len(list(tmp_path.glob("out/part-*"))) == 2
    assert merged(f"{tmp_path}/out", tmp_path / "all.jsonl") == ["1", "2", "3"]


def test_a_record_without_an_id(tmp_path):
    with pytest.raises(OptionError, match="needs an id, this one has text"):
        PartsSink(f"{tmp_path}/out").write([{"text": ["a"]}], None)


def test_other_formats():
    with pytest.raises(OptionError, match="part_format must be one of jsonl, parquet, got 'csv'"):
        PartsSink("out", part_format="csv")
