"""Scenario files: what ships can be read, and what is wrong is named."""

import pytest
from video_llava_load.scenario import Mix, Phase, Requests, Saturation, Scenario, ScenarioError
from video_llava_load.scenario_file import parse_scenario, read_scenario, shipped_scenarios

LEAST = "[mix]\ntext = 1\n[[phase]]\nseconds = 1\nrate = 2\n"


@pytest.mark.parametrize("name", ["mixed", "saturation", "smoke"])
def test_what_ships_can_be_read(name):
    assert sorted(shipped_scenarios()) == ["mixed", "saturation", "smoke"]
    scenario = read_scenario(name)
    assert (scenario.name, scenario.seconds > 0) == (name, True)
    assert scenario.objectives.given


def test_what_is_not_said_has_a_default():
    scenario = parse_scenario(LEAST, name="least")
    assert (scenario.requests, scenario.mix) == (Requests(), Mix(text=1))
    assert (scenario.phases[0].rate, scenario.is_open, str(scenario.objectives)) == ((2, 2), True, "none stated")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[mix", "mine: not TOML"),
        (LEAST.replace("text", "texts"), r"\[mix\] has no texts; it has video_cold"),
        (f"sed = 2\n{LEAST}", r"unknown: sed; a scenario has seed"),
        (f'seed = "2"\n{LEAST}', "seed must be a number, got '2'"),
        (LEAST.replace("text = 1", "text = -1"), "text is a weight, 0 or more, got -1"),
        (LEAST.replace("text = 1", ""), "gives no kind of request a weight"),
        (LEAST.replace("rate = 2", "rate = [1, 2, 3]"), r"rate must be a number or a pair of them, got \[1, 2, 3\]"),
        (LEAST.replace("rate = 2", "users = 1.5"), "users must be a whole number, got 1.5"),
        (LEAST.replace("rate = 2", "rate = true"), "rate must be a number, got True"),
        (LEAST.replace("rate = 2", "rate = 2\nusers = 2"), "either rate .* or users"),
        (LEAST.replace("rate = 2", "rate = -2"), r"must be 0 or more, got \(-2, -2\)"),
        (LEAST.replace("seconds = 1\n", ""), r"\[phase\] lacks seconds"),
        (LEAST.replace("seconds = 1", "seconds = 0"), "seconds must be above 0, got 0"),
        (LEAST.replace("[[phase]]", "[phase]"), "with two brackets"),
        (LEAST + "warmup = 1\n", "warmup must be true or false, got 1"),
        (LEAST + "warmup = true\n", "nothing would be measured"),
        (LEAST + "[[phase]]\nseconds = 1\nusers = 2\n", "phases are of both kinds"),
        ("[mix]\ntext = 1\n", "at least one"),
        (LEAST + "[requests]\nturns = [3, 2]\n", r"turns must be 1 or more and in order, got \[3, 2\]"),
        (LEAST + "[requests]\ncancel_share = 2\n", "cancel_share must be 0 to 1, got 2"),
        (LEAST + "[objectives]\nrequest_latency_ms = 0\n", "request_latency_ms must be above 0, got 0"),
        (LEAST + '[saturation]\nmetric = "ttft"\n', "metric must be one of time_to_first_token, .* got 'ttft'"),
        (LEAST + "[saturation]\npercentile = 95\n", "percentile must be one of 50, 90, 99, got 95"),
        (LEAST + "[saturation]\nrates = [9, 1]\n", r"rates must be above 0 and in order, got \[9, 1\]"),
    ],
)
def test_what_is_wrong_is_named(text, message):
    with pytest.raises(ScenarioError, match=message):
        parse_scenario(text, name="mine")


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(ScenarioError, match="neither one of mixed, saturation, smoke nor a file"):
        read_scenario(str(tmp_path / "none.toml"))


def test_a_ramp_and_the_phases_one_after_the_other():
    phases = (Phase(seconds=10, rate=(0, 4)), Phase(seconds=5, rate=(9, 9)))
    scenario = Scenario(name="ramp", mix=Mix(text=1), phases=phases)
    assert [scenario.level_at(seconds) for seconds in (0, 5, 9.999, 10, 99)] == [0, 2, pytest.approx(4, 0.01), 9, 9]
    assert scenario.phase_names == ("phase 1", "phase 2")


def test_a_trial_has_enough_requests_but_an_end():
    asked = Saturation(trial_seconds=15, trial_requests=100, max_trial_seconds=120)
    assert [asked.seconds_at(rate) for rate in (0.5, 2, 100)] == [120, 50, 15]
