"""Lets a real engine work with whatever sampling parameters it accepts: the second part of `make fuzz-requests`.

Each request must end in time, in an answer or in an error of the caller's, and a greedy one among them must get the
tokens that it gets alone. What the engine dies of, or is held up by, is named by its parameters.
"""

from __future__ import annotations

import argparse
import collections
import json
import queue
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import hypothesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parents[1]))
from support.export import ENGINE_ARGUMENTS, FREE_PORTS, export, make_random_checkpoint
from support.request_cases import samplings
from support.triton import flag, stream, strings
from video_llava_serve import LocalServer

TOGETHER = 8
DEADLINE_SECONDS = 30
PROMPT = strings("USER: What is a bicycle? ASSISTANT:")
GREEDY = {"temperature": 0, "max_tokens": 24}
EVERY_TOKEN = range(1024)
EXPECTED = ("answered", "INVALID_ARGUMENT", "UNAVAILABLE: too many constraints")

DEEP: dict[str, Any] = {"type": "integer"}
for _ in range(30):
    DEEP = {"type": "array", "items": DEEP}

HOSTILE: tuple[dict[str, Any], ...] = (
    {"structured_outputs": {"grammar": "root ::= root root"}},
    {"structured_outputs": {"grammar": "root ::= root"}},
    {"structured_outputs": {"grammar": 'root ::= "" | root "a"'}},
    {"structured_outputs": {"grammar": "root ::= ("}},
    {"structured_outputs": {"grammar": 'root ::= "' + "a" * 20_000 + '"'}},
    {"structured_outputs": {"json": {"$ref": "#"}}},
    {"structured_outputs": {"json": {"$ref": "#/nowhere"}}},
    {"structured_outputs": {"json": {"allOf": [{"type": "string"}, {"type": "integer"}]}}},
    {"structured_outputs": {"json": {"type": "string", "minLength": 10**9}}},
    {"structured_outputs": {"json": {"type": "array", "minItems": 10**9}}},
    {"structured_outputs": {"json": {"type": "integer", "minimum": -(2**62), "maximum": 2**62}}},
    {"structured_outputs": {"json": {"enum": list(range(5000))}}},
    {"structured_outputs": {"json": DEEP}},
    {"structured_outputs": {"json": {"type": "string", "pattern": "^(a{1,500}){1,500}$"}}},
    {"structured_outputs": {"regex": "(a{1,1000}){1,1000}"}},
    {"structured_outputs": {"regex": "((a*)*)*b"}},
    {"structured_outputs": {"regex": r"\p{L}{1,300}" * 20}},
    {"structured_outputs": {"regex": ""}},
    {"structured_outputs": {"choice": [""]}},
    {"structured_outputs": {"choice": [str(number) for number in range(5000)]}},
    {"structured_outputs": {"choice": ["\ud7ff\uffff", "自転車 🚲"]}, "min_tokens": 20, "max_tokens": 20},
    {"structured_outputs": {"choice": ["a"]}, "allowed_token_ids": [5]},
    {"structured_outputs": {"json_object": True}, "bad_words": ["{", "}"]},
    {"structured_outputs": {"json_object": True}, "n": 4, "temperature": 1},
    {"logit_bias": {str(token): 3e38 for token in EVERY_TOKEN}, "temperature": 1},
    {"logit_bias": {str(token): -3e38 for token in EVERY_TOKEN}, "repetition_penalty": 3e38, "temperature": 1},
    {"repetition_penalty": 1.2e-38, "temperature": 1},
    {"repetition_penalty": 3e38, "temperature": 0},
    {"allowed_token_ids": [2], "ignore_eos": True, "min_tokens": 16},
    {"allowed_token_ids": [2], "min_tokens": 16, "temperature": 0},
    {"stop_token_ids": list(range(128)), "min_tokens": 16},
    {"bad_words": [chr(number) for number in range(33, 96)]},
    {"bad_words": ["a" * 3000]},
    {"top_p": 5e-324, "min_p": 1, "top_k": 1, "temperature": 1},
    {"temperature": 2, "top_k": 2**62},
    {"n": 128, "max_tokens": 2, "temperature": 1},
    {"n": 128, "seed": 2**63 - 1, "logprobs": 20, "temperature": 1},
    {"seed": -(2**63), "temperature": 0.01},
    {"stop": [chr(number) * 200 for number in range(33, 161)], "max_tokens": 100},
    {"max_tokens": 2**63 - 1, "ignore_eos": True},
    {"max_tokens": None, "ignore_eos": True, "min_tokens": 900},
    {"presence_penalty": -2, "frequency_penalty": -2, "repetition_penalty": 0.01, "max_tokens": 200},
)


class Engine:
    """A running server, asked in groups."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._alone = self._tokens(GREEDY)
        self.outcomes: collections.Counter[str] = collections.Counter()

    def try_together(self, group: Sequence[Mapping[str, Any]]) -> None:
        """Send all at once, and a greedy request among them. Raises AssertionError, naming the parameters."""
        with ThreadPoolExecutor(len(group) + 1) as pool:
            greedy = pool.submit(self._tokens, GREEDY)
            ended = list(pool.map(self._end_of, group))
        for sampling, end in zip(group, ended, strict=True):
            self.outcomes[end.partition(":")[0]] += 1
            assert end.startswith(EXPECTED), f"{end[:300]}: {shown(sampling)}"
        named = "\n".join(map(shown, group))
        assert greedy.result() == self._alone, f"another's greedy tokens changed beside\n{named}"

    def _end_of(self, sampling: Mapping[str, Any]) -> str:
        started = time.monotonic()
        tensors = {"text_input": PROMPT, "sampling_parameters": strings(json.dumps({"max_tokens": 16, **sampling}))}
        try:
            streamed = stream(
                self._url,
                "video_llava",
                tensors | {"stream": flag(len(sampling) % 2 == 0), "return_logprobs": flag(True)},
                timeout_seconds=2 * DEADLINE_SECONDS,
                timeout=DEADLINE_SECONDS * 1_000_000,
            )
        except queue.Empty:
            return "hangs"
        seconds = time.monotonic() - started
        return streamed.error.removeprefix("in ensemble 'video_llava', ") or f"answered: in {seconds:.1f} s"

    def _tokens(self, sampling: Mapping[str, Any]) -> list[str]:
        streamed = stream(
            self._url,
            "video_llava",
            {
                "text_input": PROMPT,
                "sampling_parameters": strings(json.dumps(sampling)),
                "stream": flag(True),
                "return_token_ids": flag(True),
            },
            timeout_seconds=2 * DEADLINE_SECONDS,
        )
        assert not streamed.error, f"the engine does not answer any more: {streamed.error}"
        return [token for output in streamed.outputs for token in json.loads(output["token_ids"][0])]


def shown(sampling: Mapping[str, Any]) -> str:
    """Return parameters as JSON, shortened."""
    text = json.dumps(sampling)
    return text if len(text) < 400 else f"{text[:400]}… ({len(text)} characters)"


def groups(cases: Sequence[Mapping[str, Any]]) -> Iterator[Sequence[Mapping[str, Any]]]:
    """Yield the cases, some at a time."""
    for start in range(0, len(cases), TOGETHER):
        yield cases[start : start + TOGETHER]


def fuzz(engine: Engine, *, num_cases: int, seed: int) -> None:
    """Try the hostile parameters, each alone and some together, then as many drawn ones."""
    for sampling in HOSTILE:
        engine.try_together([sampling])
    for group in groups(HOSTILE):
        engine.try_together(group)

    @hypothesis.seed(seed)
    @settings(
        max_examples=max(1, num_cases // TOGETHER),
        deadline=None,
        database=None,
        phases=[Phase.generate],  # a smaller case cannot be looked for on an engine that has died
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )
    @given(st.lists(samplings(), min_size=TOGETHER, max_size=TOGETHER))
    def try_drawn(group: list[dict[str, Any]]) -> None:
        engine.try_together(group)

    try_drawn()


def main() -> None:
    """Start a server, try all, print what came of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=400, help="drawn ones (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=6)
    arguments = parser.parse_args()
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="fuzz-engine-") as folder:
        model = export(make_random_checkpoint(Path(folder, "checkpoint")), Path(folder))
        with LocalServer(model=model, engine_arguments=ENGINE_ARGUMENTS, **FREE_PORTS, report=print) as server:
            engine = Engine(server.grpc_url)
            try:
                fuzz(engine, num_cases=arguments.cases, seed=arguments.seed)
            finally:
                print(f"{dict(engine.outcomes)} in {time.monotonic() - started:.0f} s")
    assert server.stopped_cleanly


if __name__ == "__main__":
    main()
