"""Past its limits the server refuses at once and says why; accepted requests go on, and memory stays bounded."""

import asyncio
import time
from collections import Counter

import numpy as np
import pytest
from support.callers import ENDLESS, Caller
from support.resources import measure
from support.triton import metrics
from video_llava_client import AsyncVideoLlava, Retry, Unavailable, VideoLlava, VideoLlavaError
from video_llava_serve import LocalServer

# Of model_repository/vicuna/config.pbtxt.
MAX_REQUESTS = 256
NUM_CALLERS = 300
FRAMES = (8, 56, 56, 3)


def test_requests_past_the_limit_are_refused_and_the_rest_is_not_touched(server, client, clip_path, wait_for):
    with VideoLlava(server.grpc_url, timeout_seconds=120, retry=Retry(num_attempts=1)) as impatient:
        callers = [Caller(impatient, f"What {number}?") for number in range(NUM_CALLERS)]
        try:
            wait_for(lambda: sum(caller.error is not None for caller in callers) == NUM_CALLERS - MAX_REQUESTS)
            time.sleep(1)  # for one that is refused wrongly
            check_refused_before_the_encoders(server, impatient, clip_path)
        finally:
            for caller in callers:
                caller.leave()
            for caller in callers:
                caller.join()
    errors = [caller.error for caller in callers if caller.error]
    assert Counter(map(type, errors)) == {Unavailable: NUM_CALLERS - MAX_REQUESTS}
    for error in errors:
        assert f"{MAX_REQUESTS} requests are in flight, max_requests is {MAX_REQUESTS}" in str(error)
        assert "retry_after_seconds=" in str(error)

    # Those that waited for a place in the batch had no token yet, and are gone all the same.
    gauges = ("vllm:num_requests_running{vicuna}", "vllm:num_requests_waiting{vicuna}")
    wait_for(lambda: all(metrics(server.metrics_url)[gauge] == 0 for gauge in gauges))
    wait_for(lambda: metrics(server.metrics_url)["vllm:kv_cache_usage_perc{vicuna}"] == 0)
    assert client.ask("What is a bicycle?", max_tokens=3).num_output_tokens > 0


def check_refused_before_the_encoders(server, impatient, clip_path):
    before = metrics(server.metrics_url)["nv_inference_request_success{video_encoder}"]
    new_clip = impatient.load(clip_path, start_seconds=1)
    with pytest.raises(Unavailable, match="max_requests"):
        impatient.ask("What happens?", video=new_clip)
    assert metrics(server.metrics_url)["nv_inference_request_success{video_encoder}"] == before


async def flood(server: LocalServer, count: int, peak: "PeakMemory") -> list[Exception]:
    """Ask `count` questions at once, each about a video of its own, until only those are left that were taken."""
    errors: list[Exception] = []
    draw = np.random.default_rng(20_261_126)

    async def ask(client: AsyncVideoLlava, number: int) -> None:
        frames = draw.integers(0, 256, FRAMES, np.uint8)
        try:
            await client.ask(f"What {number}?", video=frames, max_tokens=900, sampling=ENDLESS)
        except VideoLlavaError as exc:
            errors.append(exc)

    async def in_flight() -> float:
        gauges = await asyncio.to_thread(metrics, server.metrics_url)
        return sum(gauges[f"vllm:num_requests_{state}{{vicuna}}"] for state in ("running", "waiting"))

    async with AsyncVideoLlava(server.grpc_url, timeout_seconds=120, retry=Retry(num_attempts=1)) as client:
        asking = [asyncio.create_task(ask(client, number)) for number in range(count)]
        async with asyncio.timeout(100):
            while len(errors) < count - MAX_REQUESTS or (await in_flight()) < MAX_REQUESTS:
                await asyncio.to_thread(peak.look)
                await asyncio.sleep(0.1)
        for task in asking:
            task.cancel()
        await asyncio.wait(asking)
    return errors


class PeakMemory:
    """The most that a server's processes held, over what they held at first."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._at_first = measure(pid).resident_bytes
        self.growth = 0

    def look(self) -> None:
        self.growth = max(self.growth, measure(self._pid).resident_bytes - self._at_first)


def test_memory_has_a_ceiling_under_ten_times_the_load(server, client, wait_for):
    def is_idle() -> bool:
        return metrics(server.metrics_url)["vllm:num_requests_running{vicuna}"] == 0

    peak = PeakMemory(server.pid)
    assert asyncio.run(flood(server, MAX_REQUESTS, peak)) == []
    taken = peak.growth
    wait_for(is_idle)
    errors = asyncio.run(flood(server, 10 * MAX_REQUESTS, peak))
    assert Counter(type(error) for error in errors) == {Unavailable: 9 * MAX_REQUESTS}
    wait_for(is_idle)
    assert client.ask("What is a bicycle?", max_tokens=3).num_output_tokens > 0
    # Had the refused ones been taken, they would have cost ten times what was taken.
    assert peak.growth < 5 * taken
