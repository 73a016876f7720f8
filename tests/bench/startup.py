"""Where the time of the server's start goes, read from its log: vLLM says with every line when, to the second."""

import re
from datetime import datetime, timedelta

_TRITON_STARTS = r"^[IWE]\d{4} (?P<time>\d\d:\d\d:\d\d)"
_STEPS = {
    "imports of the model's process": r"(?P<time>\d\d:\d\d:\d\d) .*Initializing a V1 LLM engine",
    "the engine's processes and their imports": r"(?P<time>\d\d:\d\d:\d\d) .*Starting to load model",
    "weights": r"(?P<time>\d\d:\d\d:\d\d) .*Loading weights took",
    "compilation, warm-up, key-value cache": r"(?P<time>\d\d:\d\d:\d\d) .*init engine \(",
}


def startup_seconds(log: str) -> dict[str, float]:
    """Seconds of each step that `log` tells of, in the order of the steps."""
    before = _find(_TRITON_STARTS, log)
    seconds: dict[str, float] = {}
    for step, pattern in _STEPS.items():
        after = _find(pattern, log)
        if before is not None and after is not None:
            # A start may pass midnight.
            seconds[step] = ((after - before) % timedelta(days=1)).total_seconds()
        before = after or before
    return seconds


def _find(pattern: str, log: str) -> datetime | None:
    match = re.search(pattern, log, re.MULTILINE)
    return datetime.strptime(match["time"], "%H:%M:%S") if match else None
