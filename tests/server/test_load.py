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
    with connected(wanted, {"url": server.grpc_url}) as load:
        # Asking for the limits, and about the warm videos, is not part of the run.
        before = []
        outcome = load.run(on_begin=lambda: before.append(metrics(server.metrics_url)))
    summary = summarize(outcome.measured, outcome.scenario.objectives)
    assert summary.num_answered == summary.num_sent > 3

    def grown(name: str) -> float:
        return metrics(server.metrics_url)[name] - before[0][name]

    # The engine publishes its counters a moment after the answers.
    wait_for(lambda: grown("vllm:generation_tokens_total{vicuna}") >= summary.num_output_tokens)
    assert grown("vllm:generation_tokens_total{vicuna}") == summary.num_output_tokens
    assert grown("vllm:prefix_cache_hits_total{vicuna}") == summary.num_cached_tokens
    assert grown("nv_inference_request_success{video_llava}") == summary.num_answered
    # What was warm came from the response cache, and so did a conversation's video from its second turn on.
    clips = [record for record in outcome.records if record.kind in ("video_cold", "video_warm", "chat")]
    cold = [record for record in clips if record.kind != "video_warm" and record.turn == 1]
    assert grown("nv_cache_num_misses_per_model{video_encoder}") == len(cold)
    assert grown("nv_cache_num_hits_per_model{video_encoder}") == len(clips) - len(cold)
    assert {record.outcome for record in outcome.records} == {ANSWERED}
