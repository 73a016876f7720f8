"""The adapter of the language model, as Triton calls it, with an engine that computes nothing."""

import asyncio
import importlib.util
import json
import os
import secrets
import signal
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import save_file
from support.fake_triton import FINAL, FakeRequest
from support.waiting import wait_until
from video_llava_server import log_file, vicuna
from video_llava_server.drain import announce
from video_llava_server.runtime_folder import VARIABLE, RuntimeFolder
from video_llava_server.tensors import strings
from video_llava_server.tickets import NO_FRAMES, TicketOffice

MODEL_PY = Path(__file__).parents[3] / "model_repository/vicuna/1/model.py"


class IdleEngine:
    """An event loop, on which requests wait until they are stopped."""

    dtype, max_model_len, is_dead, lag_seconds = torch.float32, 16, False, 0.0

    def __init__(self, *_):
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    def start(self):
        self._thread.start()

    def check_alive(self):
        assert not self.is_dead

    def call_soon(self, callback, *arguments):
        self._loop.call_soon_threadsafe(callback, *arguments)

    async def generate(self, *_):
        await asyncio.sleep(60)
        yield

    def stop(self):
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(timeout=10)
        self._loop.close()


@pytest.fixture
def model(make_model, monkeypatch, tmp_path):
    """What Triton makes of model_repository/vicuna/1/model.py, with a request log in tmp_path/log."""
    folder = make_model(tmp_path / "words", tokens_per_frame=3, tokens_per_image=2)
    save_file({"model.embed_tokens.weight": torch.zeros(6, 4)}, folder / "language_model" / "model.safetensors")
    version = tmp_path / "repository/vicuna/1"
    version.mkdir(parents=True)
    (version / "model.json").write_text('{"model": "/nowhere"}')
    (version / "multi_lora.json").write_text('{"red": "/r"}')
    (tmp_path / "repository/manifest.json").symlink_to(folder / "manifest.json")
    monkeypatch.setenv(VARIABLE, str(tmp_path / "run"))
    monkeypatch.setenv(log_file.VARIABLE, f"{tmp_path}/log,texts")
    monkeypatch.setattr(vicuna, "Engine", IdleEngine)
    spec = importlib.util.spec_from_file_location("vicuna_model", MODEL_PY)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    loaded = module.TritonPythonModel()
    limits = {"max_requests": {"string_value": "1"}, "max_prompt_bytes": {"string_value": "1000"}}
    loaded.initialize(
        {
            "model_repository": str(version.parent),
            "model_version": "1",
            "model_name": "vicuna",
            "model_config": json.dumps({"parameters": limits}),
        }
    )
    yield loaded
    loaded.finalize()


def prompt(timeout_us: int = 0, **texts: str) -> FakeRequest:
    texts = {"text_input": "USER: What? ASSISTANT:", **texts}
    return FakeRequest({name: strings([text]) for name, text in texts.items()}, timeout_us=timeout_us)


def ticket(folder: Path, *, age_seconds: float = 0.0) -> str:
    """Of a request without frames that the ensemble got so long ago."""
    office = TicketOffice(RuntimeFolder(folder).make_key())
    return office.seal(office.issue(time.monotonic() - age_seconds, NO_FRAMES, NO_FRAMES))


def responses(request: FakeRequest) -> list:
    deadline = time.monotonic() + 30
    while not request.sender.sent or request.sender.sent[-1][2] != FINAL:
        assert time.monotonic() < deadline, "no response came"
        time.sleep(0.01)
    return request.sender.sent


def test_it_is_ready_until_its_engine_is_dead_or_a_drain_is_announced(model, monkeypatch, tmp_path):
    assert model.is_ready()
    with monkeypatch.context() as patch:
        patch.setattr(IdleEngine, "is_dead", True)
        assert not model.is_ready()
    assert model.is_ready()
    announce(tmp_path / "run", seconds=0)
    assert not model.is_ready()


@pytest.mark.usefixtures("model")
@pytest.mark.parametrize(("value", "num_signals"), [("1", 1), ("0", 0)])
def test_a_dead_engine_ends_the_server_where_it_is_told_to(monkeypatch, value, num_signals):
    sent = []
    monkeypatch.setenv(vicuna.EXIT_VARIABLE, value)
    monkeypatch.setattr(vicuna.os, "kill", lambda *arguments: sent.append(arguments))
    time.sleep(0.3)
    assert sent == []
    monkeypatch.setattr(IdleEngine, "is_dead", True)
    wait_until(lambda: len(sent) == num_signals)
    time.sleep(0.3)
    assert sent == [(os.getppid(), signal.SIGTERM)] * num_signals


def test_one_request_too_many_is_refused_and_a_stopped_one_makes_room(model, monkeypatch):
    running, refused = prompt(), prompt()
    model.execute([running])
    model.execute([refused])
    ((_, error, flags),) = responses(refused)
    assert error.startswith("UNAVAILABLE: 1 requests are in flight, max_requests is 1")
    assert flags == FINAL
    running.sender.cancelled = True
    assert responses(running) == [({}, "CANCELLED: the request was cancelled", FINAL)]
    again = prompt()
    ids = []
    monkeypatch.setattr(secrets, "token_hex", lambda _: ids.append(f"{len(ids)}") or ids[-1])
    model.execute([again])
    for guess in ("request-1", "request-", ""):
        model.execute([FakeRequest({"stop": strings([guess])})])
    time.sleep(0.3)
    assert again.sender.sent == []
    model.execute([FakeRequest({"stop": strings([f"request-{ids[0]}"])})])
    assert responses(again) == [({}, "CANCELLED: the request was cancelled", FINAL)]


def test_only_a_genuine_ticket_passes_a_drain_and_only_once(model, tmp_path):
    RuntimeFolder(tmp_path / "run").begin_drain(ends_at=time.monotonic() + 60)
    sealed = ticket(tmp_path / "run")
    (direct, forged, through) = requests = [prompt(), prompt(ticket="00"), prompt(ticket=sealed)]
    model.execute(requests)
    ((_, error, _),) = responses(direct)
    assert error.startswith("UNAVAILABLE: this server is draining")
    ((_, error, _),) = responses(forged)
    assert error.startswith("INVALID_ARGUMENT: ticket is not one of this server's")
    through.sender.cancelled = True
    tensors, error, _ = responses(through)[-1]
    assert (tensors["error"][0], error) == (b"CANCELLED: the request was cancelled", "")
    used = prompt(ticket=sealed)
    model.execute([used])
    ((_, error, _),) = responses(used)
    assert error.startswith("INVALID_ARGUMENT: ticket is not one of this server's")


@pytest.mark.parametrize(("age_seconds", "waits"), [(0.0, True), (60.0, False)])
def test_a_requests_timeout_covers_its_time_in_the_encoders(model, monkeypatch, tmp_path, age_seconds, waits):
    starts = []
    start = vicuna.Generations.start
    monkeypatch.setattr(vicuna.Generations, "start", lambda *args: starts.append(args) or start(*args))
    late = prompt(timeout_us=500_000, ticket=ticket(tmp_path / "run", age_seconds=age_seconds))
    model.execute([late])
    tensors, error, _ = responses(late)[-1]
    assert bool(starts) == waits
    assert (tensors["error"][0], error) == (b"DEADLINE_EXCEEDED: the request's timeout of 0.5 s passed", "")


def test_a_defect_met_by_one_request_fails_that_request_alone(model, monkeypatch):
    broken = prompt()
    monkeypatch.setattr(vicuna, "parse_request", lambda *_, **__: SimpleNamespace())
    model.execute([broken])
    ((_, error, flags),) = responses(broken)
    assert error.startswith("INTERNAL: AttributeError:")
    assert flags == FINAL


def test_the_adapter_is_counted_and_logged_and_an_unknown_one_refused(metrics, model, tmp_path):
    unknown = prompt(sampling_parameters='{"lora_name": "blue"}')
    model.execute([unknown])
    ((_, error, _),) = responses(unknown)
    assert error.endswith("lora_name is 'blue', there is no such adapter: the server has red")
    named = prompt(sampling_parameters='{"lora_name": "red", "n": 1}')
    model.execute([named])
    (counter,) = (metric for metric in metrics if metric.name == "video_llava:lora_requests_total")
    wait_until(lambda: counter.total == 1)
    named.sender.cancelled = True
    responses(named)
    model._vicuna._log.close()
    _, line = map(json.loads, (tmp_path / "log" / "vicuna.jsonl").read_bytes().splitlines())
    assert (line["lora_name"], line["sampling"], counter.labels["lora_name"]) == ("red", {"n": 1}, "red")


def test_an_id_that_is_no_text_fails_no_other_request(model):
    odd, other = prompt(), prompt()
    odd.request_id = lambda: b"\xff".decode()
    model.execute([odd, other])
    ((_, error, _),) = responses(other)
    assert error.startswith("UNAVAILABLE: 1 requests are in flight")
    odd.sender.cancelled = True
    assert responses(odd) == [({}, "CANCELLED: the request was cancelled", FINAL)]


def test_what_does_not_end_with_an_answer_is_logged_once_and_says_why(model, tmp_path):
    sampling = '{"max_tokens": 5, "stop": ["a word"], "temperature": "0"}'
    office = TicketOffice(RuntimeFolder(tmp_path / "run").make_key())
    issued = office.issue(time.monotonic() - 5, NO_FRAMES, NO_FRAMES)._replace(media_digest=b"16 bytes of hash")
    running = prompt(sampling_parameters=sampling, ticket=office.seal(issued))
    model.execute([running])
    refused, wrong = prompt(), prompt(sampling_parameters='{"temprature": 1}')
    model.execute([refused])
    responses(refused)
    running.sender.cancelled = True
    responses(running)
    model.execute([wrong])
    responses(wrong)
    model._vicuna._log.close()
    full, cancelled, invalid = map(json.loads, (tmp_path / "log" / "vicuna.jsonl").read_bytes().splitlines())
    assert (full["outcome"], full["reason"], full["called"]) == ("UNAVAILABLE", "full", "vicuna")
    assert full["error"].startswith("UNAVAILABLE: 1 requests are in flight")
    assert (cancelled["outcome"], cancelled["called"]) == ("CANCELLED", "video_llava")
    assert cancelled["media"] == b"16 bytes of hash".hex()
    assert cancelled["sampling"] == json.loads(sampling)
    assert cancelled["num_input_tokens"] == 3
    assert cancelled["stage_seconds"]["encode"] > 5
    assert cancelled["seconds"] > 5
    assert (invalid["outcome"], invalid["prompt"]) == ("INVALID_ARGUMENT", "USER: What? ASSISTANT:")
    assert (invalid["sampling"], invalid["answers"]) == ({"temprature": 1}, [])
