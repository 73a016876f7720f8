"""A full KV cache, a seed, a dead process and a full disk: answers stay right, and the server comes back."""

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Self

from support.callers import ENDLESS, Caller
from support.launcher import is_stub_of_vicuna, probe
from support.small_server import MAX_NUM_SEQS, SmallServer
from support.waiting import wait_until
from video_llava_client import ServerError, VideoLlava

PREEMPTIONS = "vllm:num_preemptions_total{vicuna}"


def test_preempted_requests_get_the_same_tokens(small: SmallServer) -> None:
    options = {"max_tokens": 250, "sampling": {"ignore_eos": True}}
    questions = [f"What is a bicycle, told for the {nth} time?" for nth in ("first", "second", "third", "fourth")]
    with VideoLlava(small.url, timeout_seconds=120) as client, ThreadPoolExecutor(MAX_NUM_SEQS) as pool:

        def ask(question: str) -> tuple[int, ...]:
            return tuple(client.ask(question, **options).token_ids)

        alone = [ask(question) for question in questions]
        before = small.metrics()[PREEMPTIONS]
        for _ in range(5):  # on a busy machine they may come too far apart
            assert list(pool.map(ask, questions)) == alone
            if small.metrics()[PREEMPTIONS] > before:
                break
        wait_until(lambda: small.metrics()[PREEMPTIONS] > before)


def test_a_seed_does_not_end_the_engine_where_a_prompt_is_prefilled_in_pieces(small: SmallServer) -> None:
    options = {"max_tokens": 8, "temperature": 1.0, "sampling": {"seed": 7, "ignore_eos": True}}
    with VideoLlava(small.url, timeout_seconds=60) as client:
        assert client.ask("What is a bicycle? " * 5, **options).num_output_tokens == 8


def test_a_dead_model_process_is_told_and_started_again_even_with_a_full_disk(
    small: SmallServer, tmp_path: Path
) -> None:
    """Both faults at once, since each restart of an engine takes half a minute. A batch waits for its end."""
    url, launcher = small.url, small.launcher
    small.fill_the_disk()
    try:
        assert probe(url) == 0
        with VideoLlava(url) as client:
            caller = Caller(client)
            caller.wait_for_a_token()
            with Batch(url, tmp_path) as batch:
                launcher.find(is_stub_of_vicuna).kill()
                assert probe(url) == 1
                batch.check()
            caller.join()
        assert isinstance(caller.error, ServerError)
        assert launcher.wait_ready() == url
        assert "the process of the model 'vicuna' has died" in launcher.stderr
        assert probe(url) == 0
    finally:
        small.free_the_disk()


class Batch:
    """A batch of 60 lines, five times as many at once as the server takes; `with` waits for its first record."""

    def __init__(self, url: str, folder: Path) -> None:
        source, self._target = folder / "in.jsonl", folder / "out.jsonl"
        line = {"max_tokens": 4, "sampling": ENDLESS}
        source.write_text("".join(json.dumps({"question": f"What is {n}?", **line}) + "\n" for n in range(60)))
        command = [Path(sys.executable).with_name("video-llava"), "batch", source, self._target]
        self._process = subprocess.Popen(
            [*command, "--url", url, "--concurrency", "24"], stderr=subprocess.PIPE, text=True
        )

    def __enter__(self) -> Self:
        wait_until(lambda: self._target.stat().st_size > 0)
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        with self._process:  # closes its pipe
            pass

    def check(self) -> None:
        """Wait for its end: each line has one answer."""
        _, said = self._process.communicate(timeout=240)
        assert (self._process.returncode, "60 answered, 0 failed in" in said) == (0, True), said
        assert "asking again for 600 s" in said
        assert sorted(json.loads(record)["line"] for record in self._target.read_text().splitlines()) == list(
            range(1, 61)
        )
