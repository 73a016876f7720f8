"""One record of the output, as a line of JSON."""

import json
from collections.abc import Mapping
from typing import Any

from .lines import Line

Record = Mapping[str, Any]

BEGINNING = b'{"line": '


def dump(line: Line, record: Record) -> bytes:
    """Return the record as one line of JSON, in UTF-8. JSON's escapes stand for what UTF-8 has not: lone surrogates."""
    text = json.dumps({"line": line.number, "digest": line.digest, **record}, ensure_ascii=False)
    return text.encode("utf-8", errors="backslashreplace") + b"\n"
