"""Requests and their prompts' bytes have a ceiling; a refusal says which, and when to come again."""

import pytest


@pytest.fixture
def admit():
    """Return `admit(max_requests, max_prompt_bytes)`."""
    module = admission

    def make(max_requests: int, max_prompt_bytes: int):
        limits = module.AdmissionLimits(max_requests=max_requests, max_prompt_bytes=max_prompt_bytes)
        occupancy = runtime_folder.OccupancyFile(None, max_requests=max_requests)
        return module.Admission(limits, occupancy)

    return make


def test_one_request_too_many_is_refused_until_another_leaves(admit):
    admission = admit(2, 100)
    admission.enter("a", from_intake=False)
    admission.enter("b", from_intake=False)
    unavailable = errors.Unavailable
    message = r"UNAVAILABLE: 2 requests are in flight, max_requests is 2: try again, retry_after_seconds=0\.\d$"
    with pytest.raises(unavailable, match=message):
        admission.enter("c", from_intake=False)
    admission.leave("a")
    admission.leave("a")
    admission.leave("never was")
    admission.enter("c", from_intake=False)
    with pytest.raises(unavailable, match="2 requests are in flight"):
        admission.enter("d", from_intake=False)


def test_one_byte_too_many_is_refused_until_another_leaves(admit):
    admission = admit(9, 100)
    admission.enter("a", from_intake=False)
    admission.charge("a", 60)
    admission.enter("b", from_intake=False)
    with pytest.raises(errors.Unavailable, match="of 60 bytes are in flight and this one has 41"):
        admission.charge("b", 41)
    admission.charge("b", 40)
    admission.leave("a")
    admission.enter("c", from_intake=False)
    admission.charge("c", 60)


def test_one_prompt_alone_always_fits(admit):
    admission = admit(9, 100)
    admission.enter("a", from_intake=False)
    admission.charge("a", 101)


def test_the_limits_come_from_the_configuration():
    limits = admission.AdmissionLimits
    read = limits.from_config({"max_requests": {"string_value": "7"}, "max_prompt_bytes": {"string_value": "9"}})
    assert read == limits(max_requests=7, max_prompt_bytes=9)


@pytest.mark.parametrize("text", ["0", "-1", "many", ""])
def test_a_limit_that_is_none_stops_the_start(text):
    limits = admission.AdmissionLimits
    config = {"max_requests": {"string_value": text}, "max_prompt_bytes": {"string_value": "9"}}
    with pytest.raises(ValueError, match=f"parameter max_requests of vicuna/config.pbtxt is '{text}'"):
        limits.from_config(config)
