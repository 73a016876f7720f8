"""Asks the gateway about each clip of a folder, as saturate's README does it; run by the Python that has saturate."""

import base64
import importlib
import sys
from pathlib import Path
from typing import Any

saturate: Any = importlib.import_module("saturate")
_, _folder, _url, _question, _max_tokens, _output, _concurrency = sys.argv


def to_request(row: dict[str, str]) -> dict[str, Any]:
    video = base64.b64encode(Path(row["file"]).read_bytes()).decode()
    media = {"type": "video_url", "video_url": {"url": f"data:video/mp4;base64,{video}"}}
    message = {"role": "user", "content": [media, {"type": "text", "text": _question}]}
    return {"messages": [message], "max_tokens": int(_max_tokens), "temperature": 0}


print(
    saturate.pump(
        ({"file": str(path)} for path in sorted(Path(_folder).glob("*.mp4"))),
        to_request=to_request,
        parse=lambda _row, answer: {"text": answer["choices"][0]["message"]["content"]},
        endpoint=f"{_url}/v1",
        output=_output,
        id_key="file",
        window=saturate.Fixed(int(_concurrency)) if int(_concurrency) else saturate.Auto(),
    ).to_json()
)
