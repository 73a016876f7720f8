import errno
import fcntl
import hashlib
from pathlib import Path

import pytest
from video_llava_export import files
from video_llava_export.files import CHUNK_BYTES, HashingFile, copy, facts_of, read_back
from video_llava_server.manifest import FileFacts


def test_facts_are_those_of_the_file(tmp_path):
    chunks = [b"a" * 1000, memoryview(b"b" * 70_000), b"c" * (CHUNK_BYTES + 5)]
    with HashingFile(tmp_path / "file") as file:
        for chunk in chunks:
            file.write(chunk)
    content = b"".join(chunks)
    assert (tmp_path / "file").read_bytes() == content
    facts = FileFacts(size_bytes=len(content), sha256=hashlib.sha256(content).hexdigest())
    assert file.facts == facts == facts_of(tmp_path / "file")
    assert copy(tmp_path / "file", tmp_path / "copy") == facts
    assert (tmp_path / "copy").read_bytes() == content


@pytest.mark.parametrize("size", [0, 1, 4096, CHUNK_BYTES, 2 * CHUNK_BYTES])
def test_files_of_every_length(tmp_path, size):
    with HashingFile(tmp_path / "file") as file:
        file.write(b"x" * size)
    assert (tmp_path / "file").stat().st_size == size
    read_back(tmp_path / "file", file.facts)


def test_a_file_system_that_must_use_the_page_cache(tmp_path, monkeypatch):
    def refuse(_descriptor, command, *_):
        if command == fcntl.F_SETFL:
            raise OSError(errno.EINVAL, "no direct access here")
        return 0

    monkeypatch.setattr(files.fcntl, "fcntl", refuse)
    with HashingFile(tmp_path / "file") as file:
        file.write(b"abc")
    assert facts_of(tmp_path / "file") == file.facts


def test_a_full_disk_is_told():
    with pytest.raises(OSError, match="No space left"), HashingFile(Path("/dev/full")) as file:
        file.write(b"abc")


def test_a_file_that_fails_has_no_facts(tmp_path):
    with pytest.raises(KeyboardInterrupt, match="here"), HashingFile(tmp_path / "file") as file:
        file.write(b"half")
        raise KeyboardInterrupt("here")
    assert not hasattr(file, "facts")
