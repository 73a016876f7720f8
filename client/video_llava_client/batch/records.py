"""One record of the output, as a line of JSON."""

import json

from .rows import Record, Row

BEGINNING = b'{"line": '


def dump(row: Row, record: Record) -> bytes:
    """Return the record as one line of JSON, in UTF-8. JSON's escapes stand for what UTF-8 has not: lone surrogates."""
    text = json.dumps({"line": row.number, "digest": row.digest, **row.copied, **record}, ensure_ascii=False)
    return text.encode("utf-8", errors="backslashreplace") + b"\n"
