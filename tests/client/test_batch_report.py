"""The report of a batch: its sums are those of the records, and of all workers together."""

import json
import re
import signal
import subprocess
import time

import pytest
from click.testing import CliRunner
from client.batches import accounts, echo, numbers, read, run, wait_until, write
from client.helpers import COMMAND
from video_llava_client.batch.columns import Columns
from video_llava_client.batch.dataset import DataSet, Shard
from video_llava_client.batch.report import STAGES, Report
from video_llava_client.batch.report_file import ReportFile
from video_llava_client.cli import app
from video_llava_client.cli import batch as batch_command
from video_llava_client.testing import FakeServer, Reply

from client import data_sets

WHAT = ("--question", "What?", "--id-column", "key")


@pytest.fixture(scope="module")
def server():
    with FakeServer(Reply("A cat sits.", num_cached_tokens=2), num_threads=40) as running:
        yield running


@pytest.fixture(scope="module")
def clip(tmp_path_factory, write_video):
    """Two seconds of small pictures."""
    return write_video(tmp_path_factory.mktemp("clip") / "clip.mp4", 50).read_bytes()


def status(folder, *options):
    return CliRunner().invoke(app, ["batch", "status", str(folder), *options])


def embedded(page):
    """Return the report in a page."""
    return json.loads(page.partition('<script type="application/json" id="report">')[2].partition("</script>")[0])


def test_one_percent_of_broken_files_ends_by_itself_and_says_which(server, clip, tmp_path):
    found = data_sets.rows(200, clip)
    for number in (42, 142):
        found[number]["video"] = {"bytes": clip[: len(clip) // 3], "path": "clip.mp4"}
    (tmp_path / "in.parquet").write_bytes(data_sets.parquet(found))
    arguments = (tmp_path / "in.parquet", f"{tmp_path}/out/", *WHAT, "--gpus", "4")
    result = run(server, *arguments, "--report", tmp_path / "report.json")
    assert (result.exit_code, accounts(result)) == (3, (198, 2, 0, 0))
    report = json.loads((tmp_path / "report.json").read_text())
    (kind, failures) = next(iter(report["errors"].items()))
    assert (sorted(failures["ids"]), failures["count"]) == (["k00042", "k00142"], 2)
    assert f"2 {kind}" in result.stderr
    assert "k00142" in result.stderr
    records = [record for part in (tmp_path / "out").glob("part-*") for record in read(part)]
    assert (report["num_answered"], report["num_failed"], report["num_clips"]) == (198, 2, 198)
    for name in ("num_input_tokens", "num_cached_tokens", "num_output_tokens"):
        assert report[name] == sum(record.get(name, 0) for record in records) > 0
    assert report["video_seconds"] == pytest.approx(198 * 2, rel=0.01)
    assert list(report["stage_seconds"]) == list(STAGES)
    assert sum(report["stage_shares"].values()) == pytest.approx(1, abs=1e-5)
    total = sum(record["total_seconds"] for record in records if "text" in record)
    assert 0.5 * total < sum(report["stage_seconds"].values()) < 1.01 * total
    assert report["per_second"]["clips"] == pytest.approx(198 / report["wall_seconds"], rel=1e-3)
    assert report["per_second_and_gpu"]["clips"] == pytest.approx(report["per_second"]["clips"] / 4, rel=1e-3)
    assert report["is_finished"]


def test_a_page_in_one_file(server, tmp_path, source, target):
    write(source, {"id": "<b>&\ud83d", "question": "a?", "video": "nothing.mp4"}, *numbers(2))
    assert run(server, source, target, "--report", tmp_path / "report.html").exit_code == 3
    page = (tmp_path / "report.html").read_text()
    report = embedded(page)
    assert (report["num_answered"], report["errors"]["MediaNotFound"]["ids"]) == (2, ["<b>&\ud83d"])
    assert "prompt tokens" in page
    assert "http" not in page
    assert "<b>&\\" not in page.partition("<script")[0]
    result = run(server, source, target, "--report", tmp_path / "report.txt")
    assert (result.exit_code, "report.txt must end with .json or .html" in result.stderr) == (2, True)


def test_a_run_that_is_killed_leaves_its_report(tmp_path, source, target):
    write(source, *numbers(500))
    path = tmp_path / "report.json"
    with FakeServer(script=echo, num_threads=40) as server:
        command = [*COMMAND, "batch", source, target, "--url", server.url, "--report", path]
        with subprocess.Popen(list(map(str, command)), stderr=subprocess.DEVNULL) as process:
            wait_until(lambda: len(server.requests) > 20, process)
            process.send_signal(signal.SIGKILL)
    assert not json.loads(path.read_text())["is_finished"]


def test_the_file_is_written_each_ten_seconds(tmp_path, monkeypatch):
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    file = ReportFile(tmp_path / "report.json", report := Report(), title="")
    report.num_answered = 1
    for later, expected in ((9.9, 0), (10.0, 1)):
        now[0] = 100 + later
        file.update()
        assert json.loads((tmp_path / "report.json").read_text())["num_answered"] == expected
    assert [path.name for path in tmp_path.iterdir()] == ["report.json"]


def test_the_reports_of_all_workers_are_one(server, clip, tmp_path):
    (tmp_path / "in.parquet").write_bytes(data_sets.parquet(data_sets.rows(20, clip)))
    for shard in ("0/2", "1/2"):
        arguments = (tmp_path / "in.parquet", f"{tmp_path}/out/", *WHAT, "--shard", shard)
        assert run(server, *arguments, "--part-seconds", "0").exit_code == 0
    assert len(list((tmp_path / "out").glob("report-*"))) == 2
    report = json.loads(status(tmp_path / "out", "--json", "--gpus", "2").stdout)["report"]
    assert (report["num_answered"], report["num_clips"], report["num_runs"]) == (20, 20, 2)
    assert (report["is_finished"], report["num_gpus"]) == (True, 2)
    result = status(tmp_path, "--report", str(tmp_path / "all.html"))
    assert (result.exit_code, "has no report of a run" in result.stderr) == (2, True)
    result = status(tmp_path / "out", "--report", str(tmp_path / "all.html"))
    assert "20 asked by 2 runs" in result.stdout
    assert embedded((tmp_path / "all.html").read_text())["num_clips"] == 20
    assert run(server, tmp_path / "in.parquet", f"{tmp_path}/out/", *WHAT).exit_code == 0
    assert len(list((tmp_path / "out").glob("report-*"))) == 2, "a run that asks nothing has no report"


def test_time_in_which_two_workers_ran_counts_once():
    one, two, three = (Report(spans=[span]) for span in ((1000, 1010), (1005, 1030), (1100, 1101)))
    total = Report.sum_of(each.to_json() for each in (three, two, one))
    assert total.wall_seconds == pytest.approx(31)
    assert total.to_json()["began"] == "1970-01-01T00:16:40.000+00:00"


def test_of_a_part_of_a_video_only_that_counts(server, source, target, tmp_path, clip):
    (tmp_path / "clip.mp4").write_bytes(clip)
    video = {"question": "a?", "video": str(tmp_path / "clip.mp4")}
    write(
        source,
        video | {"start_seconds": 0.5},
        video | {"end_seconds": 0.5},
        video | {"start_seconds": 1, "end_seconds": 9},
    )
    assert run(server, source, target, "--report", tmp_path / "report.json").exit_code == 0
    assert json.loads((tmp_path / "report.json").read_text())["video_seconds"] == pytest.approx(
        1.5 + 0.5 + 1.0, rel=0.02
    )


def test_how_many_rows_to_expect(tmp_path):
    found = data_sets.rows(20)
    (tmp_path / "one.parquet").write_bytes(data_sets.parquet(found, row_group_size=2))
    (tmp_path / "broken.parquet").write_bytes(b"PAR1")
    for name in ("a", "b", "c"):
        (tmp_path / f"{name}.tar").write_bytes(data_sets.tar(data_sets.samples(found)))
        (tmp_path / f"{name}.mp4").write_bytes(b"")
    columns = Columns(question="What?")
    for source, count, num_rows in (
        ("one.parquet", 1, 20),
        ("one.parquet", 2, 10),
        ("one.parquet", 3, 7),
        ("*.parquet", 1, 21),
        ("*.mp4", 1, 3),
        ("*.tar", 1, None),
    ):
        data_set = DataSet(f"{tmp_path}/{source}", columns, Shard(0, count))
        assert (data_set.num_rows, data_set.expected_rows) == (num_rows, num_rows)
        if num_rows:
            assert len(list(data_set.rows())) == num_rows
    data_set = DataSet(f"{tmp_path}/*.tar", columns)
    rows = data_set.rows()
    assert [next(rows).number for _ in range(21)][-1] == 21
    assert data_set.expected_rows == 60, "by the file that was read"


def test_without_a_terminal_a_line_says_how_far_it_is(server, tmp_path, monkeypatch):
    monkeypatch.setattr(batch_command, "_NOTE_SECONDS", 0.0)
    (tmp_path / "in.parquet").write_bytes(data_sets.parquet(data_sets.rows(20)))
    result = run(server, tmp_path / "in.parquet", f"{tmp_path}/out/", *WHAT)
    assert re.search(r"^video-llava: 10 of about 20 done \(.*/s, .* left\)$", result.stderr, re.MULTILINE)
