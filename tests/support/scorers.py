"""Reads predictions as the scripts do that let GPT score them, up to the question that they send."""

import ast
import json
from collections import Counter
from pathlib import Path


def as_video_llava(path: Path) -> dict[str, tuple[str, str, str]]:
    """Question, answer and prediction by id, of lines that are Python expressions: `eval_video_qa.py`."""
    with path.open(encoding="utf-8") as file:
        rows = [ast.literal_eval(line.strip()) for line in file.readlines()]
    by_id = {row["id"]: (row["question"], row["answer"], row["pred"]) for row in rows}
    # It looks an id up by the name of its file, so only texts are found.
    return {name: by_id[name] for name in (f"{row['id']}.json"[:-5] for row in rows)}


def as_video_chatgpt(path: Path, *fields: str) -> dict[str, tuple[str, ...]]:
    """These fields by video and number, of a list: the other scripts of both, and `evaluate_activitynet_qa.py`."""
    seen: Counter[str] = Counter()
    rows: dict[str, tuple[str, ...]] = {}
    for row in json.loads(path.read_text(encoding="utf-8")):
        name = row["video_name"]
        rows[f"{name}_{seen[name]}"] = tuple(row[field] for field in fields)
        seen[name] += 1
    return rows
