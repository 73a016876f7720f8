"""Small scenarios for `video-llava-load`, and records whose figures are known."""

from typing import Any

from video_llava_load.requests import ANSWERED, Record
from video_llava_load.scenario import Mix, Phase, Requests, Scenario

SHORT = Requests(question_words=(2, 4), output_tokens=(2, 5), warm_videos=2, turns=(2, 3))
ALL = Mix(video_cold=1, video_warm=1, image=1, text=1, chat=1)


def scenario(*phases: Phase, **changes: Any) -> Scenario:
    """Return a scenario of these phases with something of everything."""
    return Scenario(
        **{"name": "test", "mix": ALL, "phases": phases, "requests": SHORT, "drain_seconds": 30.0} | changes
    )


def answer(**changes: Any) -> Record:
    """Return an answer of four tokens: due at 1 s, sent 10 ms later, TTFT 100 ms, 20 ms between tokens."""
    times = [1.11, 1.13, 1.15, 1.17]
    values: dict[str, Any] = {
        "caller": 0,
        "kind": "text",
        "turn": 1,
        "due": 1.0,
        "sent": 1.01,
        "token_times": times,
        "num_output_tokens": 4,
        "num_input_tokens": 10,
        "num_cached_tokens": 5,
        "ended": 1.18,
        "outcome": ANSWERED,
        "stage_seconds": dict.fromkeys(("transfer", "encode", "queue", "prefill", "generation"), 0.02),
    }
    return Record(**values | changes)
