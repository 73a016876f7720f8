"""Requests that step back wait for the others, and an answer says how busy the server is."""

from concurrent.futures import ThreadPoolExecutor
from functools import partial

from support.slow_steps import SEED
from support.small_server import MAX_NUM_SEQS
from support.triton import flag, stream, strings
from support.waiting import wait_until
from video_llava_client import VideoLlava

SLOW = {"seed": SEED, "ignore_eos": True}


def test_a_request_that_steps_back_waits_for_one_that_came_later(small):
    def waiting() -> float:
        return small.metrics()["vllm:num_requests_waiting{vicuna}"]

    ended = []
    with VideoLlava(small.url, timeout_seconds=120) as client, ThreadPoolExecutor() as threads:

        def ask(name: str, **options):
            answer = client.ask(f"What is {name}?", server_load=True, **options)
            ended.append(name)
            return answer

        # One ends long before the others, so that one place is free at a time.
        lengths = [30] + [60] * (MAX_NUM_SEQS - 1)
        slow = [threads.submit(ask, "slow", max_tokens=length, sampling=SLOW) for length in lengths]
        wait_until(lambda: small.metrics()["vllm:num_requests_running{vicuna}"] == MAX_NUM_SEQS)
        ask_one = partial(threads.submit, ask, max_tokens=1)
        back = ask_one("later", priority=1)
        wait_until(lambda: waiting() == 1)
        first = ask_one("first")
        wait_until(lambda: waiting() == 2)
        load = slow[0].result().server_load
        answers = [back.result(), first.result()]
    assert load
    # Its own place may be taken again already.
    assert (load.num_waiting, load.num_running) in ((2, MAX_NUM_SEQS - 1), (1, MAX_NUM_SEQS))
    assert 0 < load.kv_cache_usage <= 1
    assert [name for name in ended if name != "slow"] == ["first", "later"]
    assert all(answer.num_output_tokens == 1 for answer in answers)


def test_triton_names_an_input_that_a_server_does_not_have(small):
    """By this text a batch knows a server of an earlier release, which has no `return_server_load`."""
    request = {"text_input": strings("USER: What? ASSISTANT:"), "return_nothing": flag(True)}
    answer = stream(small.url, "video_llava", request)
    assert "unexpected inference input 'return_nothing'" in answer.error
