"""The search for the highest rate that meets an objective, with servers that are formulas."""

from collections.abc import Callable

import pytest
from support.load import answer, scenario
from video_llava_client import ServerInfo
from video_llava_load.load import Run
from video_llava_load.metrics import percentile
from video_llava_load.report import search_json, verdict
from video_llava_load.requests import FAILED
from video_llava_load.saturation import Search, search
from video_llava_load.scenario import Phase, Saturation, Scenario

SERVER = ServerInfo("127.0.0.1:1", "2.51.0", (), None)
ASKED = Saturation(below_ms=500, rates=(1, 64), warmup_seconds=0, trial_seconds=1, trial_requests=1, precision=0.1)


def searched(first_token_ms: Callable[[float], float], *, asked: Saturation = ASKED, failing: float = 1e9) -> Search:
    """Search a server with this TTFT at a rate, which refuses all requests from the rate `failing` on."""

    def run_trial(trial: Scenario) -> Run:
        (rate, _end), late = trial.phases[0].level, first_token_ms(trial.phases[0].level[0]) / 1000
        times = [1.0 + late, 1.1 + late]
        record = answer(due=1.0, sent=1.0, token_times=times, num_output_tokens=2, ended=1.2 + late)
        if rate >= failing:
            record = answer(outcome=FAILED, reason="Unavailable", token_times=[])
        return Run(trial, SERVER, 0.0, [record] * 10)

    return search(scenario(Phase(seconds=1, users=(1, 1)), saturation=asked), run_trial, lambda _trial: None)


@pytest.mark.parametrize("edge", [1.5, 3.0, 7.9, 20.0, 33.0])
def test_it_closes_in_on_the_edge(edge):
    found = searched(lambda rate: 100 if rate < edge else 900)
    assert found.highest_met is not None
    assert found.lowest_missed is not None
    assert found.highest_met < edge <= found.lowest_missed
    assert found.lowest_missed - found.highest_met <= 0.1 * found.lowest_missed
    assert len(found.trials) < 12
    # Whatever the rate was, one caller came in each trial's second.
    met, missed = (f"{rate:.2f} arrivals/s (1.00 came)" for rate in (found.highest_met, found.lowest_missed))
    assert f"met at {met}, not at {missed}" in verdict(found)


def test_rates_double_and_then_halve_the_distance():
    report = search_json(searched(lambda rate: 100 if rate < 5.5 else 900))
    assert [trial["rate"] for trial in report["trials"]] == [1, 2, 4, 8, 6, 5, 5.5]
    assert (report["highest_rate_met"], report["lowest_rate_missed"]) == (5, 5.5)
    assert report["trials"][0]["time_to_first_token"]["p99"] == pytest.approx(100)


def test_every_rate_met_and_none():
    strong, weak = searched(lambda _rate: 1), searched(lambda _rate: 501)
    assert (strong.highest_met, strong.lowest_missed, len(strong.trials)) == (64, None, 7)
    assert "the highest rate tried" in verdict(strong)
    assert (weak.highest_met, weak.lowest_missed, len(weak.trials)) == (None, 1, 1)
    assert "not met at 1.00 arrivals/s" in verdict(weak)


def test_a_rate_at_which_requests_fail_is_missed_however_fast_the_others_are():
    found = searched(lambda _rate: 1, failing=4)
    assert found.highest_met is not None
    assert 3.6 <= found.highest_met < 4
    missed = next(trial for trial in found.trials if not trial["met"])
    assert missed["why"] == "10 of 10 failed (Unavailable)"


def test_a_trial_has_enough_requests_but_an_end():
    asked = Saturation(trial_seconds=15, trial_requests=100, max_trial_seconds=120)
    assert [asked.seconds_at(rate) for rate in (0.5, 2, 100)] == [120, 50, 15]


def test_a_trial_begins_with_a_server_that_is_busy_already():
    asked = Saturation(rates=(2, 2), warmup_seconds=5, trial_seconds=10, trial_requests=1)
    runs = []

    def run_trial(trial: Scenario) -> Run:
        first = [answer(caller=n, due=n, sent=n, token_times=[n + 0.5], ended=n + 2.5) for n in range(5)]
        later = [answer(caller=n, due=n, sent=n, token_times=[n + 0.9], ended=n + 3.5) for n in range(5, 15)]
        runs.append(Run(trial, SERVER, 0.0, first + later))
        return runs[-1]

    wanted = scenario(Phase(seconds=1, users=(1, 1)), saturation=asked)
    (trial,) = search(wanted, run_trial, lambda _trial: None).trials
    phases = [(phase.seconds, phase.rate, phase.warmup) for phase in runs[0].scenario.phases]
    assert phases == [(5, (2, 2), True), (10, (2, 2), False)]
    # Those due in the first five seconds are not in the figures, but running when the trial begins.
    assert percentile(trial, "time_to_first_token", 50) == pytest.approx(900)
    assert trial["offered"] == pytest.approx(1)
    # Due at 3, 4 and 5 s, and from 12 s on; answered from 5.5 to 14.5 s.
    assert trial["under_way"] == [3, 3]
    assert trial["answered"] == pytest.approx(0.9)
