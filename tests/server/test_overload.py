"""Past its limits the server refuses, at once and by name; whom it took it serves, and then it is as before."""

import threading
import time
from collections import Counter

import pytest
from support import slow_steps
from support.triton import metrics
from video_llava_client import Retry, Unavailable, VideoLlava, VideoLlavaError

# Of model_repository/vicuna/config.pbtxt.
MAX_REQUESTS = 256
NUM_CALLERS = 300


class Callers:
    """Many streams that do not end by themselves while the test looks (45 s), each on a thread of its own."""

    def __init__(self, url: str, count: int) -> None:
        self.errors: list[Exception] = []
        self._client = VideoLlava(url, timeout_seconds=120, retry=Retry(num_attempts=1))
        self._leave = threading.Event()
        self._threads = [threading.Thread(target=self._stream, args=(number,)) for number in range(count)]
        for thread in self._threads:
            thread.start()

    def _stream(self, number: int) -> None:
        options = {"max_tokens": 900, "sampling": {"ignore_eos": True, "seed": slow_steps.SEED}}
        try:
            with self._client.stream(f"What {number}?", **options) as stream:
                for _ in stream:
                    if self._leave.is_set():
                        return
        except VideoLlavaError as exc:
            self.errors.append(exc)

    def leave(self) -> None:
        self._leave.set()
        for thread in self._threads:
            thread.join(timeout=60)
        assert not any(thread.is_alive() for thread in self._threads)
        self._client.close()


def test_requests_past_the_limit_are_refused_and_the_rest_is_not_touched(server, client, clip_path, wait_for):
    callers = Callers(server.grpc_url, NUM_CALLERS)
    try:
        wait_for(lambda: len(callers.errors) == NUM_CALLERS - MAX_REQUESTS)
        time.sleep(1)  # for one that is refused wrongly
        check_refused_before_the_encoders(server, clip_path)
    finally:
        callers.leave()
    kinds = Counter(type(error) for error in callers.errors)
    assert kinds == {Unavailable: NUM_CALLERS - MAX_REQUESTS}
    for error in callers.errors:
        assert f"{MAX_REQUESTS} requests are in flight, max_requests is {MAX_REQUESTS}" in str(error)
        assert "retry_after_seconds=" in str(error)

    # Those that waited for a place in the batch had no token yet, and are gone all the same.
    gauges = ("vllm:num_requests_running{vicuna}", "vllm:num_requests_waiting{vicuna}")
    wait_for(lambda: all(metrics(server.metrics_url)[gauge] == 0 for gauge in gauges))
    wait_for(lambda: metrics(server.metrics_url)["vllm:kv_cache_usage_perc{vicuna}"] == 0)
    assert client.ask("What is a bicycle?", max_tokens=3).num_output_tokens > 0


def check_refused_before_the_encoders(server, clip_path):
    before = metrics(server.metrics_url)["nv_inference_request_success{video_encoder}"]
    with VideoLlava(server.grpc_url, retry=Retry(num_attempts=1)) as impatient:
        new_clip = impatient.load(clip_path, start_seconds=1)
        with pytest.raises(Unavailable, match="max_requests"):
            impatient.ask("What happens?", video=new_clip)
    assert metrics(server.metrics_url)["nv_inference_request_success{video_encoder}"] == before
