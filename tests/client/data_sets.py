"""Data sets of every format, made on the spot."""

import io
import json
import tarfile

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image


def rows(count, clip=None):
    """Return rows with a key, a question, a column that is nobody's, and a clip."""
    media = {} if clip is None else {"video": {"bytes": clip, "path": "clip.mp4"}}
    return [{"key": f"k{number:05d}", "ask": f"q{number}?", "n": number, **media} for number in range(count)]


def parquet(found, **options):
    file = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(found), file, **options)
    return file.getvalue()


def arrow(found):
    file = io.BytesIO()
    table = pa.Table.from_pylist(found)
    with pa.ipc.new_stream(file, table.schema) as writer:
        writer.write_table(table, max_chunksize=3)
    return file.getvalue()


def lines(found):
    return b"".join(json.dumps(row).encode() + b"\n" for row in found)


def tar(members):
    """Return a tar of these members, as bytes by name."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as opened:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            opened.addfile(info, io.BytesIO(content))
    return file.getvalue()


def samples(found):
    """Return the members of a WebDataset for rows."""
    members = {}
    for row in found:
        fields = {name: value for name, value in row.items() if name != "video"}
        members[f"{row['key']}.json"] = json.dumps(fields).encode()
        if "video" in row:
            members[f"{row['key']}.mp4"] = row["video"]["bytes"]
    return members


def png():
    file = io.BytesIO()
    Image.new("RGB", (40, 30), "red").save(file, "PNG")
    return file.getvalue()
