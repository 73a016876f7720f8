"""`video-llava-load` on the real server: what it reports is what the server counted."""

from support.load import scenario
from support.triton import metrics
from video_llava_load.load import connected
from video_llava_load.metrics import summarize
from video_llava_load.requests import ANSWERED
from video_llava_load.scenario import Mix, Phase, Requests

REQUESTS = Requests(question_words=(3, 9), output_tokens=(4, 8), warm_videos=2, turns=(2, 2))


def test_the_reports_figures_are_the_servers_own(server, wait_for):
    everything = Mix(video_cold=1, video_warm=1, image=1, text=1, chat=1)
    wanted = scenario(Phase(seconds=4, rate=(3, 3)), mix=everything, requests=REQUESTS, drain_seconds=90.0)
    # Requests of earlier tests must not count.
    wait_for(lambda: metrics(server.metrics_url)["vllm:num_requests_running{vicuna}"] == 0)
    before = {}
    with connected(wanted, {"url": server.grpc_url}) as load:
        # Asking for the limits, and about the warm videos, is not part of the run.
        outcome = load.run(on_begin=lambda: before.update(metrics(server.metrics_url)))
    figures = summarize(outcome.measured, outcome.scenario.objectives)
    assert {record.outcome for record in outcome.records} == {ANSWERED}
    assert figures["answered_count"] == figures["sent_count"] > 3

    def grown(name: str) -> float:
        return metrics(server.metrics_url)[name] - before[name]

    # The engine publishes its counters a moment after the answers.
    wait_for(lambda: grown("vllm:generation_tokens_total{vicuna}") >= figures["output_tokens_count"])
    assert grown("vllm:generation_tokens_total{vicuna}") == figures["output_tokens_count"]
    assert grown("nv_inference_request_success{video_llava}") == figures["answered_count"]
    # A warm video's features are kept, and so are a conversation's from its second turn on.
    known = sum(r.kind == "video_warm" or (r.kind == "chat" and r.turn > 1) for r in outcome.records)
    assert grown("nv_cache_num_hits_per_model{video_features}") >= known > 0
