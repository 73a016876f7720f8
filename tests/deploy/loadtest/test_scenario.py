"""Scenario files: the shipped ones can be read, errors name the place and the value, the README lists every option."""

import re
from pathlib import Path

import pytest
import video_llava_load.scenario
from video_llava_load.scenario import (
    KINDS,
    Mix,
    Objectives,
    Phase,
    Requests,
    Saturation,
    Scenario,
    ScenarioError,
    parse_scenario,
    read_scenario,
    shipped_scenarios,
)

LEAST = "[mix]\ntext = 1\n[[phase]]\nseconds = 1\nrate = 2\n"
README = Path(video_llava_load.scenario.__file__).parents[1] / "README.md"


@pytest.mark.parametrize("name", ["mixed", "saturation", "smoke"])
def test_shipped_scenarios_can_be_read(name):
    assert sorted(shipped_scenarios()) == ["mixed", "saturation", "smoke"]
    scenario = read_scenario(name)
    assert (scenario.name, scenario.seconds > 0) == (name, True)
    assert scenario.objectives.given


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[mix", "mine: not TOML"),
        (LEAST.replace("text", "texts"), r"mix\.texts is unknown; known here: video_cold, "),
        (f"sed = 2\n{LEAST}", r"sed is unknown; known here: .*seed"),
        (LEAST.replace("text = 1", "text = -1"), r"mix\.text: .*greater than or equal to 0, got -1"),
        (LEAST.replace("text = 1", ""), "no kind of request has a weight"),
        (LEAST.replace("rate = 2", "rate = 2\nusers = 2"), "either rate .* or users"),
        (LEAST.replace("rate = 2", "users = 1.5"), r"phase\.0\.users\.0: .*integer, got 1\.5"),
        (LEAST.replace("seconds = 1\n", ""), r"phase\.0\.seconds: Field required"),
        (LEAST.replace("[[phase]]", "[phase]"), "phase: .*tuple"),
        (LEAST + "warmup = true\n", "nothing would be measured"),
        (LEAST + "[[phase]]\nseconds = 1\nusers = 2\n", "all phases must be"),
        (LEAST + "[requests]\nturns = [3, 2]\n", r"turns: the first number must not be above .*got \(3, 2\)"),
        (LEAST + '[saturation]\nmetric = "ttft"\n', "metric: .*'time_to_first_token', .*got 'ttft'"),
        (LEAST + "[saturation]\nmax_trial_seconds = 1\n", "max_trial_seconds must be trial_seconds or more"),
    ],
)
def test_errors_name_place_and_value(text, message):
    with pytest.raises(ScenarioError, match=message):
        parse_scenario(text, name="mine")


def test_a_ramp_and_the_phases_one_after_the_other():
    phases = (Phase(seconds=10, rate=(0, 4)), Phase(seconds=5, rate=(9, 9)))
    scenario = Scenario(name="ramp", mix=Mix(text=1), phases=phases)
    assert [scenario.level_at(seconds) for seconds in (0, 5, 9.999, 10, 99)] == [0, 2, pytest.approx(4, 0.01), 9, 9]
    assert scenario.phase_names == ("phase 1", "phase 2")


def test_the_readme_lists_every_option_with_its_default():
    written = dict(re.findall(r"^\| `([^`]+)` \| `([^`]+)` \|", README.read_text(encoding="utf-8"), re.MULTILINE))
    tables = {"requests": Requests, "objectives": Objectives, "phase": Phase, "saturation": Saturation}
    options = {
        f"{table}.{name}": option for table, kind in tables.items() for name, option in kind.model_fields.items()
    }
    options |= {name: Scenario.model_fields[name] for name in ("seed", "drain_seconds")}
    options |= {f"mix.{kind}": Mix.model_fields[kind] for kind in KINDS}
    assert written == {name: _default(option) for name, option in options.items()}


def _default(option) -> str:
    if option.is_required():
        return "required"
    value = option.default
    if isinstance(value, tuple):
        return f"[{', '.join(f'{each:g}' for each in value)}]"
    if isinstance(value, bool):
        return str(value).lower()
    return "none" if value in (None, "") else f"{value:g}" if isinstance(value, float | int) else str(value)
