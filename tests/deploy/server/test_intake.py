"""The ensemble's first step refuses what cannot be answered, by the value that is wrong, and counts everything once."""

import hashlib
import json
import time

import numpy as np
import pytest
from support.fake_triton import FakeRequest
from video_llava_server import log_file, tensors
from video_llava_server.errors import InvalidArgument
from video_llava_server.intake import TritonPythonModel
from video_llava_server.limits import Limits
from video_llava_server.manifest import Manifest
from video_llava_server.prompt_checks import PromptChecker
from video_llava_server.runtime_folder import VARIABLE, Arrival, Occupancy, RuntimeFolder
from video_llava_server.tensors import strings
from video_llava_server.tickets import TicketInspector

FRAMES, SIZE = 2, 28


@pytest.fixture(scope="module")
def model_folder(make_model, tmp_path_factory):
    return make_model(tmp_path_factory.mktemp("models") / "words")


@pytest.fixture(scope="module")
def checker(model_folder):
    return PromptChecker(Limits.of(Manifest.read(model_folder), max_model_len=None), model_folder)


def frames(count: int, size: int = SIZE) -> np.ndarray:
    return np.zeros((count, size, size, 3), np.uint8)


def test_absent_media_become_zero_frames(checker):
    videos, images = checker.check_media("USER: What? ASSISTANT:", None, None)
    assert videos.shape == images.shape == (0, SIZE, SIZE, 3)


def test_media_pass_as_they_are(checker):
    sent = frames(FRAMES), frames(1)
    videos, images = checker.check_media("USER: <image> <video> What? ASSISTANT:", *sent)
    assert videos is sent[0]
    assert images is sent[1]


@pytest.mark.parametrize(
    ("text", "videos", "images", "message"),
    [
        ("  ", None, None, "INVALID_ARGUMENT: text_input is empty"),
        ("What? " * 50, None, None, "has 300 characters, in the context of 25 tokens fit at most 250: shorten"),
        ("<video>", None, None, r"has 1 <video> placeholder\(s\) and the request has 0 video\(s\)"),
        ("<video>", frames(2 * FRAMES), None, r"has 1 <video> placeholder\(s\) and the request has 2 video\(s\)"),
        ("What?", None, frames(1), r"has 0 <image> placeholder\(s\) and the request has 1 image\(s\)"),
        ("<video>", frames(FRAMES + 1), None, "video_frames has 3 frames, expected a multiple of 2"),
        ("<video>", frames(FRAMES, 56), None, r"is uint8 \[2, 56, 56, 3\], expected uint8 \[frames, 28, 28, 3\]"),
        (
            "<video> <video> <image> What?",
            frames(2 * FRAMES),
            frames(1),
            r"takes 25 positions \(1 of text, 24 of media\)",
        ),
    ],
)
def test_refusals_name_the_values(checker, text, videos, images, message):
    with pytest.raises(InvalidArgument, match=message):
        checker.check_media(text, videos, images)


@pytest.fixture
def intake(model_folder, monkeypatch, tmp_path):
    """The model as Triton loads it, with a request log in tmp_path/log."""
    (tmp_path / "repository" / "vicuna" / "1").mkdir(parents=True)
    (tmp_path / "repository" / "vicuna" / "1" / "model.json").write_text('{"max_model_len": 24}')
    (tmp_path / "repository" / "manifest.json").symlink_to(model_folder / "manifest.json")
    monkeypatch.setenv(VARIABLE, str(tmp_path / "run"))
    monkeypatch.setenv(log_file.VARIABLE, str(tmp_path / "log"))
    model = TritonPythonModel()
    args = {"model_repository": str(tmp_path / "repository/intake"), "model_name": "intake", "model_version": "1"}
    model.initialize(args)
    yield model
    model.finalize()


@pytest.mark.parametrize("own", [True, False], ids=["parameters", "sampling_parameters"])
@pytest.mark.parametrize(("name", "passes"), [("red", True), ("nobody", False)])
def test_an_unknown_adapter_is_refused_before_the_encoders(metrics, intake, tmp_path, name, passes, own):
    (tmp_path / "repository/vicuna/1/multi_lora.json").write_text('{"red": "/r", "blue": "/b"}')
    intake.initialize(
        {"model_repository": str(tmp_path / "repository/intake"), "model_name": "i", "model_version": "1"}
    )
    written = json.dumps({"lora_name": name})
    texts = {"text_input": strings(["<video>"])} | ({} if own else {"sampling_parameters": strings([written])})
    request = FakeRequest({**texts, "video_frames": frames(2)}, parameters=written if own else "{}")
    (response,), (limits,) = intake.execute([request]), intake.execute([FakeRequest(outputs=("limits",))])
    error = (
        "INVALID_ARGUMENT: sampling_parameters: lora_name is 'nobody', there is no such adapter: the server has red, b"
    )
    assert str(response.error or "").startswith("" if passes else error)
    assert bool(response.error) != passes
    assert json.loads(limits.tensors["limits"][0])["lora_names"] == ["red", "blue"]
    assert sum(metric.total for metric in metrics if metric.name == "video_llava:video_frames_total") == 2 * passes


def prompt(text: str, *, cancelled: bool = False, **media: np.ndarray) -> FakeRequest:
    return FakeRequest({"text_input": strings([text]), **media}, cancelled=cancelled)


def test_every_request_is_counted_and_every_refusal_by_its_code(metrics, intake, monkeypatch, tmp_path):
    monkeypatch.setattr("video_llava_server.gate.Gate._is_probe", lambda *_: False)
    RuntimeFolder(tmp_path / "run").write_occupancy(Occupancy(num_in_flight=1, max_requests=3))
    requests = [
        prompt("<video>", video_frames=frames(2)),
        prompt("<video> <image> What?", video_frames=frames(2), image_frames=frames(1)),
        prompt(" "),
        FakeRequest(),
        FakeRequest({"text_input": np.array([b"\xff"], np.object_)}),
        prompt("What?", cancelled=True),
        prompt("What?"),
        prompt("<image>", image_frames=frames(1)),
        FakeRequest(outputs=("limits",)),
    ]
    responses = intake.execute(requests)
    assert [str(response.error or "").partition(" ")[0] for response in responses] == [
        "", "", *["INVALID_ARGUMENT:"] * 3, "CANCELLED:", "", "UNAVAILABLE:", "",
    ]  # fmt: skip
    assert responses[0].tensors.keys() == {*tensors.FRAMES, *tensors.NONCES, "ticket"}
    assert json.loads(responses[-1].tensors["limits"][0])["max_model_len"] == 24
    assert {metric.name: metric.total for metric in metrics if metric.total and "code" not in metric.labels} == {
        "video_llava:requests_total": 8,
        "video_llava:video_frames_total": 4,
        "video_llava:image_frames_total": 1,
        "video_llava:video_requests_total": 2,
        "video_llava:image_requests_total": 1,
    }
    assert failures(metrics) == {("INVALID_ARGUMENT", ""): 3, ("UNAVAILABLE", "full"): 1, ("CANCELLED", ""): 1}


def test_requests_that_step_back_leave_places_to_others(intake, tmp_path):
    RuntimeFolder(tmp_path / "run").write_occupancy(Occupancy(num_in_flight=18, max_requests=20))
    back, ahead = (strings([f'{{"priority": {number}}}']) for number in (1, -1))
    responses = intake.execute(
        [
            prompt("What?", sampling_parameters=back),
            prompt("What?"),
            prompt("What?", sampling_parameters=ahead),
        ]
    )
    refused, taken, wrong = responses
    kept = "18 requests are in flight, max_requests is 20, 2 of them for requests of priority 0: try again, reason=full"
    assert kept in str(refused.error)
    assert taken.error is None
    assert "INVALID_ARGUMENT: sampling_parameters: priority is -1, expected a whole number" in str(wrong.error)


def failures(metrics):
    failed = [metric for metric in metrics if "code" in metric.labels and metric.total]
    return {(metric.labels["code"], metric.labels["reason"]): metric.total for metric in failed}


def test_requests_that_never_came_out_of_the_encoders_are_counted(metrics, intake, tmp_path):
    sent = [prompt("<video>", video_frames=frames(2) + number) for number in range(3)]
    assert not any(response.error for response in intake.execute(sent))
    # The last one has come out: those before it are lost.
    last = Arrival(serial=3, seconds=time.monotonic(), silence_seconds=60)
    RuntimeFolder(tmp_path / "run").write_occupancy(Occupancy(last_new=(last, Arrival()), arrived=(3,)))
    intake.execute([prompt("What?")])
    intake.execute([prompt("What?")])
    assert failures(metrics) == {("UNKNOWN", "encoders"): 2}
    assert [(line["outcome"], line["reason"]) for line in logged(intake, tmp_path)] == [("UNKNOWN", "encoders")] * 2


def logged(intake, folder):
    intake._log.close()
    return [json.loads(line) for line in (folder / "log" / "intake.jsonl").read_bytes().splitlines()]


def test_what_is_refused_is_logged_and_what_passes_takes_its_digest_with_it(intake, tmp_path):
    callers = '{"X-Video-Llava-Caller": "me", "x-video-llava-caller": "you"}'
    refused = FakeRequest({"text_input": strings(["<video>"])}, request_id="mine" * 100, parameters=callers)
    (response,) = intake.execute([refused])
    assert response.error
    media = {"video_frames": frames(FRAMES) + 7, "image_frames": frames(1) + 8}
    (response,) = intake.execute([prompt("<image> <video>", **media)])
    ticket = TicketInspector(RuntimeFolder(tmp_path / "run").read_key).take(response.tensors)
    assert ticket is not None
    assert ticket.media_digest == intake._log.media_digest(media.values())
    (line,) = logged(intake, tmp_path)
    assert line["id"] == ("mine" * 100)[:256]
    assert (line["caller"], line["called"], line["model"]) == ("me, you", "video_llava", "words")
    assert line["prompt_sha256"] == hashlib.sha256(b"<video>").hexdigest()
    assert (line["outcome"], line["reason"], line["answers"]) == ("INVALID_ARGUMENT", "", [])
    assert "<video>" not in json.dumps(line)
    assert line.keys().isdisjoint({"prompt", "error", "previous"})
