"""Requests and their prompts' bytes have a ceiling; a refusal says which, and when to come again."""

import pytest
from video_llava_server import admission as module
from video_llava_server.errors import Unavailable
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
    message = r"UNAVAILABLE: 2 requests are in flight, max_requests is 2: try again, retry_after_seconds=0\.\d$"
    with pytest.raises(Unavailable, match=message):
        admission.enter("c", None)
    admission.leave("a")
    admission.leave("a")
    admission.leave("never was")
    admission.enter("c", None)
    with pytest.raises(Unavailable, match="2 requests are in flight"):
        admission.enter("d", None)


def test_one_byte_too_many_is_refused_until_another_leaves(admit):
    admission = admit(9, 100)
    admission.enter("a", None)
    admission.charge("a", 60)
    admission.enter("b", None)
    with pytest.raises(Unavailable, match="of 60 bytes are in flight and this one has 41"):
        admission.charge("b", 41)
    admission.charge("b", 40)
    admission.leave("a")
    admission.enter("c", None)
    admission.charge("c", 60)


def test_one_prompt_alone_always_fits(admit):
    admission = admit(9, 100)
    admission.enter("a", None)
    admission.charge("a", 101)


def test_the_limits_come_from_the_configuration():
    limits = module.AdmissionLimits
    read = limits.from_config({"max_requests": {"string_value": "7"}, "max_prompt_bytes": {"string_value": "9"}})
    assert read == limits(max_requests=7, max_prompt_bytes=9)


@pytest.mark.parametrize("text", ["0", "-1", "many", ""])
def test_a_limit_that_is_none_stops_the_start(text):
    limits = module.AdmissionLimits
    config = {"max_requests": {"string_value": text}, "max_prompt_bytes": {"string_value": "9"}}
    with pytest.raises(ValueError, match=f"parameter max_requests of vicuna/config.pbtxt is '{text}'"):
        limits.from_config(config)
