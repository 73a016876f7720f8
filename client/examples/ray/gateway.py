"""The same by Ray's own HTTP processor: `python gateway.py s3://bucket/clips/ s3://bucket/captions/ http://gateway:8080`."""

import base64
import os
import sys
from typing import Any

import ray  # pyright: ignore[reportMissingImports]
from ray.data.llm import HttpRequestProcessorConfig, build_processor  # pyright: ignore[reportMissingImports]
from video_llava_client.ray_data import PartsSink


def request(row: dict[str, Any]) -> dict[str, Any]:
    """Return the body of a row's request."""
    clip = base64.b64encode(row["video"]["bytes"]).decode()
    content = [
        {"type": "video_url", "video_url": {"url": f"data:video/mp4;base64,{clip}"}},
        {"type": "text", "text": "What happens?"},
    ]
    messages = [{"role": "user", "content": content}]
    payload = {"model": "video_llava", "messages": messages, "max_tokens": 64, "temperature": 0}
    return {"id": row["key"], "payload": payload}


def record(row: dict[str, Any]) -> dict[str, Any]:
    """Return the record of an answer."""
    answer = row["http_response"]
    if "error" in answer:  # refused: Ray asks again only what was 408, 429, 502, 503 or 504
        error = {name: answer["error"][name] for name in ("type", "message")}
        return {"id": row["id"], "error": error}
    (choice,), usage = answer["choices"], answer["usage"]
    return {
        "id": row["id"],
        "text": choice["message"]["content"],
        "finish_reason": choice["finish_reason"],
        "num_input_tokens": usage["prompt_tokens"],
        "num_output_tokens": usage["completion_tokens"],
    }


def main(source: str, out: str, url: str, num_actors: int = 2, rows_per_part: int = 200) -> None:
    """Ask of `num_actors` actors, and write a part for each `rows_per_part` rows."""
    config = HttpRequestProcessorConfig(
        url=f"{url}/v1/chat/completions",
        headers={"Authorization": f"Bearer {os.environ.get('VIDEO_LLAVA_TOKEN', 'none')}"},
        batch_size=1,  # Ray sends the requests of a batch one after another, and has four batches at a time
        concurrency=(num_actors, num_actors),
        max_retries=8,
    )
    rows = ray.data.read_parquet(source).repartition(target_num_rows_per_block=rows_per_part)
    records = build_processor(config, preprocess=request, postprocess=record)(rows)
    records.write_datasink(PartsSink(out))


if __name__ == "__main__":
    source, out, url = sys.argv[1:]
    main(source, out, url)
