"""Requests and their prompts' bytes have a ceiling; a refusal says which, and when to come again."""

import pytest
from video_llava_server import admission as module
from video_llava_server.errors import InvalidArgument, Unavailable
from video_llava_server.runtime_folder import RuntimeFolder


@pytest.fixture
def admit(tmp_path):
    def make(max_requests: int, max_prompt_bytes: int) -> module.Admission:
        limits = module.AdmissionLimits(max_requests=max_requests, max_prompt_bytes=max_prompt_bytes)
        return module.Admission(limits, RuntimeFolder(tmp_path))

    return make


def test_one_request_too_many_is_refused_until_another_leaves(admit):
    admission = admit(2, 100)
    admission.enter("a", None)
    admission.enter("b", None)
    message = (
        r"UNAVAILABLE: 2 requests are in flight, max_requests is 2: try again, reason=full, retry_after_seconds=0\.\d$"
    )
    with pytest.raises(Unavailable, match=message):
        admission.enter("c", None)
    admission.leave("a")
    admission.leave("a")
    admission.leave("never was")
    admission.enter("c", None)
    with pytest.raises(Unavailable, match="2 requests are in flight"):
        admission.enter("d", None)


def test_one_byte_too_many_is_refused_until_another_leaves(admit):
    admission = admit(9, 200)
    admission.enter("a", None)
    admission.charge("a", 60, num_sequences=1)
    admission.enter("b", None)
    with pytest.raises(Unavailable, match="of 120 bytes are in flight and this one has 82"):
        admission.charge("b", 41, num_sequences=1)
    admission.charge("b", 40, num_sequences=1)
    admission.leave("a")
    admission.enter("c", None)
    admission.charge("c", 60, num_sequences=1)


def test_one_prompt_alone_always_fits(admit):
    admission = admit(9, 100)
    admission.enter("a", None)
    admission.charge("a", 101, num_sequences=1)


def test_each_sequence_holds_the_prompt_once_more(admit):
    admission = admit(9, 100)
    admission.enter("a", None)
    admission.charge("a", 10, num_sequences=7)
    admission.enter("b", None)
    with pytest.raises(Unavailable, match="of 80 bytes are in flight and this one has 30"):
        admission.charge("b", 10, num_sequences=2)
    message = r"n is 10, .* takes 110 bytes, max_prompt_bytes is 100: ask for at most 9 at a time"
    with pytest.raises(InvalidArgument, match=message):
        admission.charge("b", 10, num_sequences=10)
    admission.charge("b", 10, num_sequences=1)


def test_the_limits_come_from_the_configuration():
    limits = module.AdmissionLimits
    config = {"max_requests": {"string_value": "7"}, "max_prompt_bytes": {"string_value": "9"}}
    assert limits.from_config(config, {"max_requests": 5}) == limits(max_requests=7, max_prompt_bytes=9)


@pytest.mark.parametrize(("profile", "max_requests"), [({"max_requests": 35}, 35), ({}, 256)])
def test_the_number_of_requests_can_be_the_profiles(profile, max_requests):
    config = {"max_requests": {"string_value": "profile"}, "max_prompt_bytes": {"string_value": "9"}}
    assert module.AdmissionLimits.from_config(config, profile).max_requests == max_requests


@pytest.mark.parametrize("text", ["0", "-1", "many", ""])
def test_a_limit_that_is_none_stops_the_start(text):
    limits = module.AdmissionLimits
    config = {"max_requests": {"string_value": text}, "max_prompt_bytes": {"string_value": "9"}}
    with pytest.raises(ValueError, match=f"parameter max_requests of vicuna/config.pbtxt is '{text}'"):
        limits.from_config(config, {})
