"""The request log's files: bounded, chained, written on whatever the disk does, and never waited for."""

import contextlib
import json
import resource
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from support.waiting import wait_until
from video_llava_server import log_file
from video_llava_server.log_file import ChainError, LogFile, LogOptions, verify_chain

COMMAND = Path(sys.executable).with_name("video-llava-verify-log")


class Log:
    """A log in a folder, and what it has said in the server's log."""

    def __init__(self, folder, **options):
        self.path = folder / "a.jsonl"
        self.options = LogOptions(
            folder, **{"texts": False, "chain": True, "max_bytes": 10**6, "num_files": 3, **options}
        )
        self.reports = []

    def __enter__(self):
        self.file = LogFile(self.path, self.options, self.reports.append)
        return self

    def __exit__(self, *_):
        self.file.close()

    def write(self, *numbers, **facts):
        for number in numbers:
            self.file.put({"number": number, **facts})

    def lines(self, suffix=""):
        return [json.loads(line) for line in Path(f"{self.path}{suffix}").read_bytes().splitlines()]

    def numbers(self, suffix=""):
        return [line["number"] for line in self.lines(suffix)]


@pytest.fixture
def log(tmp_path):
    return Log(tmp_path)


@pytest.mark.parametrize(
    ("setting", "options"),
    [
        ("/logs", ("/logs", False, False, 64_000_000, 8)),
        ("/logs,texts,chain", ("/logs", True, True, 64_000_000, 8)),
        ("logs,chain,megabytes=0.5,files=12", ("logs", False, True, 500_000, 12)),
    ],
)
def test_a_setting_says_where_and_what(setting, options):
    assert LogOptions.parse(setting) == (Path(options[0]), *options[1:])


@pytest.mark.parametrize(
    "setting", [",texts", "/logs,text", "/logs,files=1", "/logs,megabytes=many", "/logs,chain,texts"]
)
def test_another_setting_is_refused_with_what_is_expected(setting):
    with pytest.raises(ValueError, match=r"the request log is '.*', expected DIR\[,texts\]\[,chain\]"):
        LogOptions.parse(setting)


def test_only_this_user_reads_it(log):
    with log:
        log.write(1)
    assert stat.S_IMODE(log.path.stat().st_mode) == 0o600


def test_files_are_bounded_and_the_chain_goes_on_over_them(tmp_path):
    with Log(tmp_path, max_bytes=1000) as log:
        log.write(*range(100))
    files = sorted(tmp_path.iterdir())
    assert [file.name for file in files] == ["a.jsonl", "a.jsonl.1", "a.jsonl.2"]
    assert all(file.stat().st_size <= 1000 for file in files)
    kept = log.numbers(".2") + log.numbers(".1") + log.numbers()
    assert kept == [*range(kept[0], 100)]
    assert verify_chain(log.path)[0] == len(kept)


def test_the_chain_goes_on_after_a_restart_and_half_a_line_is_cut_off(log):
    for number in range(3):
        with log:
            log.write(number)
        with log.path.open("ab") as file:
            file.write(b'{"number": ')
    with log:
        log.write(3)
    assert log.numbers() == [0, 1, 2, 3]
    assert log.lines()[0]["previous"] == ""
    assert verify_chain(log.path)[0] == 4


def test_the_chain_goes_on_where_a_rotation_was_the_last_thing_before_a_restart(log):
    with log:
        log.write(1)
    log.path.rename(f"{log.path}.1")
    with log:
        log.write(2)
    assert verify_chain(log.path)[0] == 2


def change(lines):
    lines[3] = lines[3].replace(b'"number": 3', b'"number": 4')


def remove(lines):
    del lines[4]


def add(lines):
    lines.insert(4, lines[4])


def swap(lines):
    lines[3], lines[4] = lines[4], lines[3]


@pytest.mark.parametrize(("spoil", "first_bad"), [(change, 5), (remove, 5), (add, 6), (swap, 4)])
def test_a_spoilt_line_shows(log, spoil, first_bad):
    with log:
        log.write(*range(9))
    lines = log.path.read_bytes().splitlines(keepends=True)
    spoil(lines)
    log.path.write_bytes(b"".join(lines))
    with pytest.raises(ChainError, match=rf"a\.jsonl, line {first_bad}: it does not follow the line before"):
        verify_chain(log.path)


def test_the_command_names_the_last_hash_or_the_first_bad_line(tmp_path):
    with Log(tmp_path, max_bytes=500) as log:
        log.write(*range(8))

    def verify(path):
        return subprocess.run([COMMAND, path], capture_output=True, text=True, check=False, timeout=60)

    num_lines, last = verify_chain(log.path)
    assert verify(log.path).stdout == f"{num_lines} lines, the last one's SHA-256 is {last}\n"
    older = Path(f"{log.path}.1")
    older.write_bytes(older.read_bytes().replace(b"number", b"Number", 1))
    done = verify(log.path)
    assert (done.returncode, f"{older}, line 2: " in done.stderr) == (1, True)
    (tmp_path / "other").mkdir()
    with Log(tmp_path / "other", chain=False) as unchained:
        unchained.write(1)
    assert "line 1: no JSON with a hash" in verify(unchained.path).stderr
    assert verify(tmp_path / "missing").returncode == 2


@contextlib.contextmanager
def room(num_bytes):
    """No file of this process may get longer, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_costs_lines_alone_and_is_said_once(log):
    with log:
        with room(0):
            log.write(1, 2, 3)
            wait_until(lambda: log.file.num_dropped == 3)
        log.write(4, 5)
    assert log.numbers() == [4, 5]
    assert [line.get("dropped") for line in log.lines()] == [3, None]
    assert len(log.reports) == 1
    assert "a.jsonl loses lines until it can be written again: [Errno 27] File too large" in log.reports[0]


def test_a_line_that_fits_in_part_is_not_written(log):
    with log:
        log.write(1)
        wait_until(lambda: log.path.exists() and len(log.lines()) == 1)
        with room(log.path.stat().st_size + 20):
            log.write(2)
            wait_until(lambda: log.file.num_dropped == 1)
        log.write(3)
    assert log.numbers() == [1, 3]
    assert verify_chain(log.path)[0] == 2


def test_where_too_many_lines_wait_the_next_ones_are_dropped_at_once(log, monkeypatch):
    may_write, write = threading.Event(), log_file._write
    monkeypatch.setattr(log_file, "_write", lambda *arguments: may_write.wait(60) and write(*arguments))
    with log:
        log.write(*range(log_file._MAX_WAITING + 100))
        num_dropped = log.file.num_dropped
        may_write.set()
    assert 99 <= num_dropped <= 100  # one is in the thread's hand, or is not yet
    assert log.numbers() == [*range(log_file._MAX_WAITING + 100 - num_dropped)]
    assert sum(line.get("dropped", 0) for line in log.lines()) == num_dropped
