"""A batch over data sets: every format in and out, at every kind of address, by shards."""

import gzip
import json
import subprocess
import sys
from collections import Counter
from itertools import chain

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from client.batches import read, run, write
from client.helpers import COMMAND
from client.storage import S3
from support.waiting import wait_until
from video_llava_client.batch.columns import Columns
from video_llava_client.batch.dataset import DataSet, Shard
from video_llava_client.batch.merge import merge
from video_llava_client.batch.part_files import dump_line, encode
from video_llava_client.batch.storage import Address
from video_llava_client.cli import app
from video_llava_client.testing import FakeServer, Refuse, Reply

from client import data_sets

MAPPED = ("--id-column", "key", "--question-column", "ask", "--keep", "n")
FORMATS = {
    "one.parquet": {"one.parquet": data_sets.parquet},
    "parquet": {"parquet/README.md": lambda _: b"# Clips", "parquet/data/train-0.parquet": data_sets.parquet},
    "tars/{000..001}.tar": {
        "tars/000.tar": lambda found: data_sets.tar(data_sets.samples(found[:3])),
        "tars/001.tar": lambda found: data_sets.tar(data_sets.samples(found[3:])),
        "tars/002.tar": lambda _: data_sets.tar({}),
    },
    "arrow": {"arrow/dataset_info.json": lambda _: b"{}", "arrow/data-00000-of-00001.arrow": data_sets.arrow},
}


def echo(request):
    return Reply(request.prompt.split()[-2])


@pytest.fixture
def server():
    with FakeServer(script=echo, num_threads=40) as running:
        yield running


@pytest.fixture(scope="module")
def s3(tmp_path_factory):
    """A bucket of a real server of the S3 protocol, as the environment of pyarrow names it."""
    with pytest.MonkeyPatch.context() as patch, S3(tmp_path_factory.mktemp("s3")) as storage:
        for name, value in storage.environment.items():
            patch.setenv(name, value)
        yield storage


@pytest.fixture(params=["local", "memory", "s3"])
def base(request, tmp_path):
    """An address for everything of one test."""
    if request.param == "local":
        return str(tmp_path / "with blank")
    if request.param == "memory":
        fsspec.filesystem("memory").store.clear()
        return "memory://base"
    request.getfixturevalue("s3")
    return f"s3://bucket/{tmp_path.name} with blank"


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
    arguments = (f"{base}/{source}", f"{base}/out/", *MAPPED, "--part-format", kind)
    result = run(server, *arguments)
    assert result.exit_code == 0, result.output
    records = merged(base, "--ordered")
    assert [(record["id"], record["text"], record["n"]) for record in records] == [
        (f"k{number:05d}", f"q{number}?", number) for number in range(7)
    ]
    names = {name.rpartition("/")[2] for name in FORMATS[source]}
    assert {record["file"].rpartition("/")[2] for record in records} <= names
    assert all(request.video_frames is not None for request in server.requests)
    result = run(server, *arguments)
    assert result.exit_code == 0
    assert "7 had a record before" in result.stderr
    assert len(server.requests) == 7


@pytest.mark.parametrize(
    "metadata",
    [
        {"metadata.csv": lambda found: b"file_name,ask\n" + b"".join(f"{a},{b}\n".encode() for a, b in found)},
        {"metadata.jsonl": lambda found: data_sets.lines({"file_name": a, "ask": b} for a, b in found)},
        {"metadata.parquet": lambda found: data_sets.parquet([{"file_name": a, "ask": b} for a, b in found])},
    ],
)
def test_a_folder_of_media_with_metadata(server, base, bikes, metadata):
    put(f"{base}/in/train", metadata, [("clips/a.mp4", "one?"), ("b.png", "two?")])
    Address.of(f"{base}/in/train/clips/a.mp4").write([bikes.read_bytes()])
    Address.of(f"{base}/in/train/b.png").write([data_sets.png()])
    result = run(server, f"{base}/in", f"{base}/out/", "--question-column", "ask", "--keep", "file_name")
    assert result.exit_code == 0, result.output
    assert [(r["file_name"], r["text"]) for r in merged(base, "--ordered")] == [
        ("clips/a.mp4", "one?"),
        ("b.png", "two?"),
    ]
    seen = {request.prompt.split()[-2]: request for request in server.requests}
    assert seen["one?"].num_media == (1, 0)
    assert seen["two?"].num_media == (0, 1)


def test_a_folder_of_media_and_one_question(server, base, bikes):
    for name in ("a.mp4", "b/c.mp4", "b/.hidden.mp4"):
        Address.of(f"{base}/in/{name}").write([bikes.read_bytes()])
    Address.of(f"{base}/in/README.md").write([b"# Clips"])
    result = run(server, f"{base}/in", f"{base}/out/", "--question", "What?", "--keep", "file_name")
    assert result.exit_code == 0, result.output
    assert [(r["file"], r["text"]) for r in merged(base, "--ordered")] == [("a.mp4", "What?"), ("b/c.mp4", "What?")]


@pytest.mark.parametrize("where", ["relative", "whole", "struct"])
def test_media_by_address(server, base, bikes, where):
    """Relative ones start from the folder of the data set."""
    Address.of(f"{base}/in/clips/a.mp4").write([bikes.read_bytes()])
    video = {
        "relative": "clips/a.mp4",
        "whole": f"{base}/in/clips/a.mp4",
        "struct": {"bytes": None, "path": "clips/a.mp4"},
    }
    Address.of(f"{base}/in/rows.jsonl").write([data_sets.lines([{"id": 7, "question": "one?", "video": video[where]}])])
    result = run(server, f"{base}/in/rows.jsonl", f"{base}/out/")
    assert result.exit_code == 0, result.output
    assert [(record["id"], record["text"]) for record in merged(base)] == [("7", "one?")]
    assert server.requests[0].video_frames is not None


def test_a_tar_needs_no_options(server, tmp_path, bikes):
    """`txt` is the question, fields of `json` are arguments, several images are one question's."""
    members = {
        "a/1.mp4": bikes.read_bytes(),
        "a/1.txt": b"one?",
        "a/2.json": b'{"question": "two?", "max_tokens": 3}',
        "a/2.0.png": data_sets.png(),
        "a/2.1.png": data_sets.png(),
        "a/2.npy": b"?",
        "a/3.json": b"{nonsense",
        "a/4.json": b'{"max_tokens": 3}',
    }
    (tmp_path / "in.tar.gz").write_bytes(gzip.compress(data_sets.tar(members)))
    result = run(server, tmp_path / "in.tar.gz", tmp_path / "out.jsonl", "--ordered")
    assert result.exit_code == 3, result.output
    records = read(tmp_path / "out.jsonl")
    assert [record["id"] for record in records] == [f"in.tar.gz/a/{number}" for number in (1, 2, 3, 4)]
    assert [record.get("text") for record in records] == ["one?", "two?", None, None]
    assert "a/3.json is not JSON" in records[2]["error"]["message"]
    assert "give --question" in records[3]["error"]["message"]
    assert [request.num_media for request in server.requests if request.sampling["max_tokens"] == 3] == [(0, 2)]


def test_equal_rows_are_one_question(server, tmp_path, bikes):
    """Without a key; a part of the content that differs makes another row, its file's name does not."""
    clip = bikes.read_bytes()
    found = [{"question": f"q{n % 2}?", "video": {"bytes": clip, "path": f"{n}.mp4"}} for n in range(6)]
    found.append({"question": "q0?", "video": {"bytes": clip + b" ", "path": "0.mp4"}})
    (tmp_path / "in.parquet").write_bytes(data_sets.parquet(found))
    assert run(server, tmp_path / "in.parquet", f"{tmp_path}/out/").exit_code == 0
    assert [record["row"] for record in merged(tmp_path, "--ordered")] == [0, 1, 6]
    assert len(server.requests) == 3


@pytest.mark.parametrize(
    ("num_files", "rows_a_group", "split"), [(8, 10, "files"), (2, 2, "row groups"), (1, 10, "rows"), (7, 10, "rows")]
)
def test_each_row_is_in_one_shard(tmp_path, num_files, rows_a_group, split):
    for number in range(num_files):
        found = [{"id": f"{number}-{row}", "question": "?"} for row in range(10)]
        (tmp_path / f"{number}.parquet").write_bytes(data_sets.parquet(found, row_group_size=rows_a_group))
    shards = [DataSet(str(tmp_path / "*.parquet"), Columns(), Shard(index, 2)) for index in range(2)]
    assert {shard.split for shard in shards} == {split}
    found = [[row.copied["id"] for row in shard.rows()] for shard in shards]
    assert sorted(chain(*found)) == sorted(f"{n}-{row}" for n in range(num_files) for row in range(10))
    assert abs(len(found[0]) - len(found[1])) <= 2


def test_shards_of_a_job(server, tmp_path, monkeypatch):
    """The index comes from an Indexed Job; another number of shards later asks nothing again."""
    write(tmp_path / "in.jsonl", *({"id": n, "question": f"{n}?"} for n in range(20)))
    for index in range(3):
        monkeypatch.setenv("JOB_COMPLETION_INDEX", str(index))
        assert run(server, tmp_path / "in.jsonl", f"{tmp_path}/out/", "--shard", "/3").exit_code == 0
    assert len(server.requests) == 20
    assert run(server, tmp_path / "in.jsonl", f"{tmp_path}/out/", "--shard", "1/2").exit_code == 0
    assert len(server.requests) == 20
    assert Counter(record["id"] for record in merged(tmp_path)) == Counter(map(str, range(20)))
    result = status(tmp_path / "out")
    assert (result["num_answered"], result["num_quarantined"]) == (20, 0)
    assert result["shards"]["00000-of-00003"] == {"num_records": 7, "is_read": True, "num_rows": 7}


def test_row_groups_that_are_done_are_not_read_again(server, tmp_path, monkeypatch):
    """Only their ids are; a group with one new row is read."""
    found = [{"id": n, "question": f"{n}?", "video": {"bytes": b"x", "path": "a.mp4"}} for n in range(30)]
    (tmp_path / "in.parquet").write_bytes(data_sets.parquet(found, row_group_size=10))
    arguments = (tmp_path / "in.parquet", f"{tmp_path}/out/")
    assert run(server, *arguments).exit_code == 3
    made = []
    row = Columns.row
    monkeypatch.setattr(Columns, "row", lambda *given: made.append(given[2]) or row(*given))
    assert run(server, *arguments).exit_code == 0
    assert made == []
    (tmp_path / "in.parquet").write_bytes(
        data_sets.parquet([*found[:15], {**found[15], "id": 99}, *found[16:]], row_group_size=10)
    )
    assert run(server, *arguments).exit_code == 3
    assert len(made) == 10
    assert {shard["num_rows"] for shard in status(tmp_path / "out")["shards"].values()} == {30}


def test_files_are_decoded_in_processes_too(server, tmp_path, bikes):
    fsspec.filesystem("memory").store.clear()
    Address.of("memory://clips/a.mp4").write([bikes.read_bytes()])
    found = [{"question": "one?", "video": "memory://clips/a.mp4"}]
    write(tmp_path / "in.jsonl", *found, {"question": "two?", "video": str(bikes)})
    (tmp_path / "in.parquet").write_bytes(data_sets.parquet(data_sets.rows(2, bikes.read_bytes())))
    for source, options in (("in.jsonl", ()), ("in.parquet", ("--question-column", "ask"))):
        assert run(server, tmp_path / source, f"{tmp_path}/{source}-out/", *options, "--isolated").exit_code == 0
    assert [request.num_media for request in server.requests] == [(1, 0)] * 4


def status(folder):
    return json.loads(CliRunner().invoke(app, ["batch", "status", str(folder), "--json"]).stdout)


def test_rows_that_fail_again_and_again_are_quarantined(server, tmp_path):
    """A failure of the server counts; a refusal is final at once; an answer in any part is the row's record."""
    write(tmp_path / "in.jsonl", *({"id": n, "question": f"{n}?"} for n in range(3)))
    arguments = (tmp_path / "in.jsonl", f"{tmp_path}/out/", "--max-attempts", "2", "--concurrency", "1")
    faults = {"0?": Refuse("INTERNAL: broken"), "1?": Refuse("INVALID_ARGUMENT: never")}
    server.then(script=lambda request: faults.get(request.prompt.split()[-2], Reply("Yes.")))
    for attempt, num_asked, (retried, quarantined) in ((1, 3, (1, 1)), (2, 4, (0, 2)), (3, 4, (0, 2))):
        run(server, *arguments)
        found = status(tmp_path / "out")
        assert (len(server.requests), found["num_retried"], found["num_quarantined"]) == (
            num_asked,
            retried,
            quarantined,
        )
        by_id = {record["id"]: record for record in merged(tmp_path)}
        assert by_id["0"]["attempts"] == min(attempt, 2)
        assert by_id["1"]["attempts"] == 1
    assert found["errors"] == {"Internal": 1, "InvalidRequest": 1}
    text = CliRunner().invoke(app, ["batch", "status", str(tmp_path / "out")]).stdout
    assert "1 answered, 0 to be asked again, 2 quarantined\n  1 Internal: 0\n  1 InvalidRequest: 1\n" in text
    faults.clear()
    assert run(server, *arguments, "--retry-quarantined").exit_code == 0
    assert (len(server.requests), status(tmp_path / "out")["num_answered"]) == (6, 3)
    assert not any("error" in record for record in merged(tmp_path))


def test_two_workers_on_one_shard_do_no_harm(server, tmp_path):
    server.then(script=lambda request: Reply(request.prompt.split()[-2], seconds_per_token=0.01))
    write(tmp_path / "in.jsonl", *({"id": n, "question": f"{n}?"} for n in range(60)))
    command = [
        *COMMAND,
        "batch",
        tmp_path / "in.jsonl",
        f"{tmp_path}/out/",
        "--url",
        server.url,
        "--part-seconds",
        "0.1",
    ]
    workers = [subprocess.Popen(command, stderr=subprocess.DEVNULL) for _ in range(2)]
    assert [worker.wait(60) for worker in workers] == [0, 0]
    assert Counter(record["id"] for record in merged(tmp_path)) == Counter(map(str, range(60)))
    assert max(Counter(request.prompt for request in server.requests).values()) <= 2


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_a_merge_is_the_same_whatever_the_parts_are(tmp_path, monkeypatch, kind):
    """Through temporary files too: an answer comes before an error, the later attempt before the earlier."""
    records = [
        {"id": str(n % 7), "file": "f", "row": n % 7, "attempts": n, "error": {"type": "Internal"}} for n in range(30)
    ]
    records += [{"id": "3", "file": "f", "row": 3, "text": text} for text in ("b", "a")]
    monkeypatch.setattr("video_llava_client.batch.merge._RUN_BYTES", 1000)
    found = []
    for turn, size in enumerate((1, 5, 32)):
        for place in range(0, len(records), size):
            lines = [dump_line(record) for record in records[place : place + size]]
            name = f"part-00000-of-00001-{turn}-{place:05d}.{kind}"
            Address.of(str(tmp_path / f"{turn}" / name)).write(encode(lines, kind))
        assert merge(Address.of(str(tmp_path / f"{turn}")), Address.of(str(tmp_path / f"{turn}.jsonl"))) == 7
        found.append(read(tmp_path / f"{turn}.jsonl"))
        records.reverse()
    assert found[0] == found[1] == found[2]
    assert [record.get("attempts") for record in found[0]] == [28, 29, 23, None, 25, 26, 27]
    assert found[0][3]["text"] == "a"


def test_columns_of_several_types_become_one(tmp_path):
    """In Parquet: integers and floats are floats, what nothing holds is JSON in text; lone surrogates are escaped."""
    for number, (n, name) in enumerate(((1, "x"), (2.5, [1]), (None, "\ud83d"))):
        record = {"id": str(number), "file": "f", "row": number, "text": "t", "n": n, "name": name}
        file = Address.of(str(tmp_path / "out" / f"part-00000-of-00001-a-{number:05d}.parquet"))
        file.write(encode([dump_line(record)], "parquet"))
    merge(Address.of(str(tmp_path / "out")), Address.of(str(tmp_path / "all.parquet")))
    table = pq.read_table(tmp_path / "all.parquet")
    assert table.column("n").to_pylist() == [1.0, 2.5, None]
    assert table.column("name").to_pylist() == ["x", "[1]", "\\ud83d"]
    assert table.schema.field("num_output_tokens").type == pa.int64()


def test_broken_files_and_rows_are_named_and_the_rest_is_answered(server, tmp_path, bikes):
    """One in a hundred: media, samples, and files of rows cut off or of something else."""
    clip = bikes.read_bytes()
    (tmp_path / "in").mkdir()
    for number in range(100):
        found = data_sets.rows(4, clip if number in (10, 20) else None)
        if number == 10:
            found[2]["video"] = {"bytes": b"no video"}
        content = data_sets.tar(data_sets.samples(found))
        (tmp_path / "in" / f"{number:03d}.tar").write_bytes(content[: len(content) // 2] if number == 20 else content)
    (tmp_path / "in" / "020b.tar").write_bytes(b"no tar" * 1000)
    result = run(server, tmp_path / "in", f"{tmp_path}/out/", "--question-column", "ask")
    assert result.exit_code == 3
    assert "failed" in result.stderr
    errors = {record["id"]: record["error"] for record in merged(tmp_path) if "error" in record}
    assert set(errors) == {"010.tar/k00002", "020.tar/(broken)", "020b.tar/(broken)"}
    assert "020.tar is broken after " in errors["020.tar/(broken)"]["message"]
    assert status(tmp_path / "out")["errors"] == {"UnreadableMedia": 3}
    assert run(server, tmp_path / "in", f"{tmp_path}/out/", "--question-column", "ask").exit_code == 0


def test_parquet_that_is_cut_off_or_damaged(tmp_path):
    content = data_sets.parquet([{"id": str(n), "question": "x" * 50} for n in range(3000)], row_group_size=1000)
    middle = len(content) // 2
    files = {"a": content[:middle], "b": content[:middle] + b"?" * 2000 + content[middle + 2000 :], "c": b""}
    for name, data in files.items():
        (tmp_path / f"{name}.parquet").write_bytes(data)
    rows = list(DataSet(str(tmp_path), Columns()).rows())
    assert {row.copied["id"] for row in rows if row.error} >= {"a.parquet/(broken)", "c.parquet/(broken)"}
    shards = [DataSet(str(tmp_path), Columns(), Shard(index, 2)).rows() for index in range(2)]
    assert {row.copied["id"] for shard in shards for row in shard if row.error} >= {"a.parquet/(broken)"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("nothing.parquet", "out/"), "nothing.parquet cannot be read"),
        (("nothing/*.tar", "out/"), "nothing/*.tar has no files"),
        (("-", "out/"), "cannot be read from stdin"),
        (("in.parquet", "out/", "--shard", "2/2"), "0 <= I < N"),
        (("in.parquet", "out/", "--shard", "2"), "--shard takes I/N"),
        (("in.parquet", "out/", "--shard", "/2"), "JOB_COMPLETION_INDEX is not set"),
        (("in.parquet", "out.jsonl", "--shard", "0/2"), "--shard needs a folder OUT"),
        (("in.parquet", "out/", "--ordered"), "batch merge --ordered"),
        (("in.parquet", "out/", "--video-column", "clip"), "has no column 'clip': it has id, question, data"),
        (("in.parquet", "out/", "--keep", "text"), "--keep text: the records have a column of this name"),
        (("in.parquet", "out/", "--keep", "data"), "--keep takes no columns of bytes"),
        (("in.parquet", "out/", "--question", "?", "--question-column", "question"), "exclude each other"),
        (("mixed", "out/"), "mixed has files of 2 formats (parquet, tar)"),
        (("nope://bucket/in.parquet", "out/"), "nope://bucket cannot be used"),
        (("in.parquet", "nope://bucket/"), "nope://bucket/ cannot be used"),
    ],
)
def test_what_is_refused(server, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("JOB_COMPLETION_INDEX", raising=False)
    for name in ("in.parquet", "mixed/a.parquet"):
        Address.of(name).write([data_sets.parquet([{"id": 1, "question": "?", "data": b"?"}])])
    Address.of("mixed/b.tar").write([data_sets.tar({})])
    result = run(server, *arguments)
    assert (result.exit_code, len(server.requests)) == (2, 0)
    assert message in result.stderr


@pytest.mark.parametrize("name", ["a.parquet", "*.parquet"])
def test_an_address_with_options(server, s3, tmp_path, monkeypatch, name):
    """They are no pattern, and stay with the folder of one; they may hold secrets, which no message has."""
    put(f"s3://bucket/{tmp_path.name}", {"a.parquet": data_sets.parquet}, data_sets.rows(3))
    options = f"?scheme=http&endpoint_override={s3.environment['AWS_ENDPOINT_URL'].removeprefix('http://')}"
    monkeypatch.delenv("AWS_ENDPOINT_URL")
    source = f"s3://bucket/{tmp_path.name}/{{}}{options}"
    result = run(server, source.format(name), f"{tmp_path}/out/", *MAPPED)
    assert (result.exit_code, len(server.requests)) == (0, 3), result.output
    result = run(server, source.format("b.parquet"), f"{tmp_path}/out/", *MAPPED)
    assert result.exit_code == 2
    assert "b.parquet cannot be read (no such file or folder)" in result.stderr
    assert "endpoint_override" not in result.stderr


def test_storage_that_is_away_is_waited_for(server, s3, tmp_path):
    """A part is written once its storage is back; media that cannot be read are asked for by the next run."""
    server.then(script=lambda request: Reply(request.prompt.split()[-2], seconds_per_token=0.2))
    write(tmp_path / "in.jsonl", *({"id": n, "question": f"{n}?"} for n in range(40)))
    out = f"s3://bucket/{tmp_path.name}/out/"
    command = [*COMMAND, "batch", tmp_path / "in.jsonl", out, "--url", server.url, "--part-seconds", "0.1"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as worker:
        wait_until(lambda: bool(list(s3.bucket.glob(f"{tmp_path.name}/out/part-*"))))
        s3.stop()
        wait_until(lambda: len(server.requests) == 40)
        s3.start()
        _, stderr = worker.communicate(timeout=120)
    assert worker.returncode == 0, stderr
    assert Counter(record["id"] for record in merged(f"s3://bucket/{tmp_path.name}")) == Counter(map(str, range(40)))


def test_media_that_storage_does_not_give_are_asked_for_again(server, s3, tmp_path, bikes):
    folder = s3.bucket / tmp_path.name
    folder.mkdir()
    (folder / "in.jsonl").write_bytes(data_sets.lines([{"id": 1, "question": "?", "video": "later.mp4"}]))
    arguments = (f"s3://bucket/{tmp_path.name}/in.jsonl", f"{tmp_path}/out/")
    assert run(server, *arguments).exit_code == 3
    (record,) = merged(tmp_path)
    assert (record["error"]["type"], record["retry"], record["attempts"]) == ("UnreadableMedia", True, 1)
    (folder / "later.mp4").write_bytes(bikes.read_bytes())
    assert run(server, *arguments).exit_code == 0


def test_other_options_than_those_of_a_folder_are_refused(server, tmp_path):
    write(tmp_path / "in.jsonl", {"question": "?"})
    assert run(server, tmp_path / "in.jsonl", f"{tmp_path}/out/").exit_code == 0
    result = run(server, tmp_path / "in.jsonl", f"{tmp_path}/out/", "--question", "Why?", "--max-tokens", "5")
    assert result.exit_code == 2
    assert "other options (max_tokens 256 -> 5, question None -> 'Why?')" in result.stderr
    (tmp_path / "out" / "job.json").unlink()
    assert "its job.json cannot be read" in run(server, tmp_path / "in.jsonl", f"{tmp_path}/out/").stderr


@pytest.mark.parametrize(
    ("into", "message"), [("all.csv", "must end with .jsonl or .parquet"), ("all.jsonl", "has no parts")]
)
def test_what_a_merge_refuses(tmp_path, into, message):
    result = CliRunner().invoke(app, ["batch", "merge", str(tmp_path), str(tmp_path / into)])
    assert result.exit_code == 2
    assert message in result.stderr


def test_without_the_extra(tmp_path):
    code = f"import sys; sys.modules['pyarrow'] = None; {COMMAND[2]}"
    command = [sys.executable, "-c", code, "batch", f"{tmp_path}/in.parquet", f"{tmp_path}/out/"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert "data sets need pyarrow: install this package with its extra [data]" in done.stderr


def test_a_file_that_cannot_be_written_leaves_nothing(tmp_path):
    def chunks():
        yield b"a beginning"
        raise OSError("no space left")

    with pytest.raises(OSError, match="no space left"):
        Address.of(str(tmp_path / "a.jsonl")).write(chunks())
    assert list(tmp_path.iterdir()) == []
