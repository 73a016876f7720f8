"""What `intake` and the language model read beside vLLM's sampling parameters."""

import pytest
from video_llava_server.parameters import as_priority, named


@pytest.mark.parametrize(
    ("parameters", "name"),
    [
        (('{"lora_name": "red"}', "{}"), "red"),
        (('{"n": 1}', '{"lora_name": "red"}'), "red"),
        (('{"lora_name": 7}',), 7),
        (('{"lora_name": ', "", '["lora_name"]', "[" * 100_000 + "lora_name"), None),
        ((f'{{"lora_name": "red", "stop": "{"x" * 2**20}"}}',), None),
    ],
)
def test_an_adapter_is_named_in_either_parameters(parameters, name):
    assert named("lora_name", *parameters) == name


@pytest.mark.parametrize(("given", "priority"), [(None, 0), (0, 0), (7, 7), ("7", 7), (1000, 1000)])
def test_a_priority_is_a_number_of_steps_back(given, priority):
    assert as_priority(given) == priority


@pytest.mark.parametrize("given", [-1, "-1", 1001, 1.0, True, "first", [1], {}])
def test_nobody_comes_before_those_who_say_nothing(given):
    with pytest.raises(match=r"priority is .*, expected a whole number from 0 \(the default, first\) to 1000 \(last\)"):
        as_priority(given)
