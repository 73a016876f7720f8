import hashlib

import pytest
from video_llava_export.files import HashingFile, facts_of
from video_llava_server.manifest import FileFacts


def test_facts_are_those_of_the_file(tmp_path):
    chunks = [b"a" * 1000, memoryview(b"b" * 70_000), b"c"]
    with HashingFile(tmp_path / "file") as file:
        for chunk in chunks:
            file.write(chunk)
    content = b"".join(chunks)
    assert (tmp_path / "file").read_bytes() == content
    facts = FileFacts(size_bytes=71_001, sha256=hashlib.sha256(content).hexdigest())
    assert file.facts == facts == facts_of(tmp_path / "file")


def test_a_file_that_fails_has_no_facts(tmp_path):
    with pytest.raises(KeyboardInterrupt, match="here"), HashingFile(tmp_path / "file") as file:
        file.write(b"half")
        raise KeyboardInterrupt("here")
    assert not hasattr(file, "facts")
