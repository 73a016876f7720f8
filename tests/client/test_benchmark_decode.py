"""`video-llava benchmark-decode`: what it says about files. How fast they are is the machine's."""

import json

import pytest
from click.testing import CliRunner
from video_llava_client.cli import app, benchmark
from video_llava_client.decoding_speed import DecodingSpeed


@pytest.fixture(scope="module")
def folder(tmp_path_factory, write_video):
    folder = tmp_path_factory.mktemp("clips")
    (folder / "b").mkdir()
    for name in ("a.mp4", "b/c.MP4"):
        write_video(folder / name, 25)
    (folder / "broken.mp4").write_bytes(b"no video")
    (folder / "README.md").write_text("# Clips")
    return folder


def run(*arguments):
    return CliRunner().invoke(app, ["benchmark-decode", *map(str, arguments), "--seconds", "0.3"])


def test_all_that_is_known(folder):
    result = run(folder, "--processes", 2, "--clips-per-second", 1e6, "--json")
    assert (result.exit_code, result.stderr) == (0, "")
    report = json.loads(result.stdout)
    assert (report["num_files"], report["num_tried"], report["num_failed"]) == (3, 3, 1)
    assert list(report["errors"]["UnreadableMedia"]) == [str(folder / "broken.mp4")]
    assert sum(report["stage_shares"].values()) == pytest.approx(1, abs=0.001)
    one, two = report["speeds"]
    assert (one["num_processes"], two["num_processes"]) == (1, 2)
    assert one["video_seconds_per_second"] == pytest.approx(one["clips_per_second"])
    assert report["num_processes_needed"] == pytest.approx(2e6 / two["clips_per_second"], abs=1)
    assert {each["file"] for each in report["slowest"]} == {str(folder / name) for name in ("a.mp4", "b/c.MP4")}


def test_the_same_for_people(folder):
    result = run(f"{folder}/*.mp4", folder / "b", "--processes", 1, "--clips-per-second", 1e6)
    assert result.exit_code == 0
    assert "3 of 3 files read, 1 of them cannot be used" in result.stdout
    assert f"1 UnreadableMedia: {folder}/broken.mp4" in result.stdout
    assert "a server that takes 1e+06 clips/s needs about" in result.stdout


def test_what_cannot_be_measured(folder, tmp_path):
    for path, message in (
        (folder / "broken.mp4", "none of 1 files can be decoded: "),
        (folder / "README.md", "none of 1 files can be decoded: "),
        (tmp_path, f"{tmp_path} has no videos"),
        (f"{tmp_path}/*.mp4", f"{tmp_path}/*.mp4 has no videos"),
    ):
        result = run(path, "--processes", 1)
        assert (result.exit_code, message in result.stderr) == (2, True), result.stderr


def test_each_file_is_read_before_any_is_read_again(folder):
    speed = DecodingSpeed([folder / "a.mp4", folder / "b/c.MP4"], size=56, seconds=0.001)
    speed.measure_stages()
    speed.measure(1)
    assert (speed.num_tried, speed.num_failed) == (2, 0)


def test_numbers_of_processes():
    assert [benchmark._numbers(most) for most in (1, 2, 6, 8)] == [[1], [1, 2], [1, 2, 4, 6], [1, 2, 4, 8]]
    assert benchmark._num_cores() >= 1
