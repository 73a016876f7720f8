"""The models and the drain tell each other by files: each reads what the other has written."""

import threading
import time

import pytest
from video_llava_serve._drain import announce, drain


class Server:
    """The parts of intake and vicuna that write and read the files, without Triton."""

    def __init__(self, folder, *, max_requests):
        self.gate = gate.Gate(folder)
        runtime, admission = runtime_folder, admission
        self.drain = runtime.Drain(folder)
        self._occupancy = runtime.OccupancyFile(folder, max_requests=max_requests)
        limits = admission.AdmissionLimits(max_requests=max_requests, max_prompt_bytes=1)
        self.admission = admission.Admission(limits, self._occupancy)

    def close(self):
        self.gate.close()
        self._occupancy.close()


@pytest.fixture
def server(tmp_path):
    made = Server(tmp_path, max_requests=3)
    yield made
    made.close()


@pytest.fixture
def unavailable():
    return gate.Unavailable


def test_intake_refuses_once_the_model_and_the_way_to_it_are_full(server, unavailable):
    server.admission.enter("direct", from_intake=False)
    server.gate.enter()
    server.gate.enter()
    with pytest.raises(unavailable, match=r"^UNAVAILABLE: 3 requests are in flight, max_requests is 3: .*=0\.1$"):
        server.gate.enter()
    server.admission.enter("a", from_intake=True)
    with pytest.raises(unavailable, match="3 requests are in flight"):
        server.gate.enter()
    server.admission.leave("a")
    server.gate.enter()
    with pytest.raises(unavailable, match="3 requests are in flight"):
        server.gate.enter()


def test_who_never_reaches_the_model_is_forgotten_in_the_end(server, unavailable, monkeypatch):
    for _ in range(3):
        server.gate.enter()
    with pytest.raises(unavailable):
        server.gate.enter()
    monkeypatch.setattr(gate, "_LOST_AFTER_SECONDS", 0.0)
    server.gate.enter()


def test_before_the_model_has_said_anything_all_may_pass(tmp_path):
    gate = gate.Gate(tmp_path)
    gate.enter()
    gate.close()


def test_a_drain_that_is_announced_refuses_nothing_yet(server, tmp_path):
    assert not server.drain.is_announced
    announce(tmp_path, seconds=0)
    assert server.drain.is_announced
    server.gate.enter()
    server.drain.check()
    assert server.drain.ends_at is None


def test_a_drain_refuses_what_is_new_and_waits_for_what_is_not(server, unavailable, tmp_path):
    server.gate.enter()
    server.admission.enter("a", from_intake=False)
    results = []
    draining = threading.Thread(target=lambda: results.append(drain(tmp_path, timeout_seconds=30)))
    draining.start()
    while server.drain.ends_at is None:
        time.sleep(0.01)
    with pytest.raises(unavailable, match=r"^UNAVAILABLE: this server is draining .*: ask another server$"):
        server.gate.enter()
    with pytest.raises(errors.Unavailable, match=r"^UNAVAILABLE: this server is draining"):
        server.drain.check()
    assert server.drain.is_announced
    assert not server.drain.is_over

    server.admission.leave("a")
    draining.join(timeout=0.6)
    assert draining.is_alive()  # for the one on its way
    server.admission.enter("b", from_intake=True)
    server.admission.leave("b")
    draining.join(timeout=30)
    assert results == [True]


def test_a_drain_has_an_end(server, tmp_path, monkeypatch):
    monkeypatch.setattr("video_llava_serve._drain._GRACE_SECONDS", 0.1)
    server.admission.enter("a", from_intake=True)
    assert not drain(tmp_path, timeout_seconds=0.1)
    assert server.drain.is_over


def test_a_drain_does_not_wait_for_who_died_on_the_way(server, tmp_path, monkeypatch):
    monkeypatch.setattr("video_llava_serve._drain._LATE_SECONDS", 0.1)
    server.gate.enter()
    assert drain(tmp_path, timeout_seconds=30)


def test_models_that_say_nothing_are_drained_at_once(tmp_path):
    assert drain(tmp_path, timeout_seconds=30)


def test_a_server_that_starts_again_in_its_old_folder_does_not_drain(tmp_path):
    announce(tmp_path, seconds=0)
    drain(tmp_path, timeout_seconds=0)
    again = runtime_folder.Drain(tmp_path)
    assert again.ends_at is None
    assert not again.is_announced
    again.check()


def test_without_a_folder_nobody_tells_anything(tmp_path):
    runtime = runtime_folder
    assert runtime.find_folder({}) is None
    assert gate.find_folder({"VIDEO_LLAVA_RUNTIME_DIR": ""}) is None
    nothing = runtime.Drain(None)
    assert nothing.ends_at is None
    assert not nothing.is_announced
    assert not nothing.is_over
    gate.OpenGate().enter()
    new = str(tmp_path / "new" / "folder")
    assert runtime.find_folder({"VIDEO_LLAVA_RUNTIME_DIR": new}) == gate.find_folder(
        {"VIDEO_LLAVA_RUNTIME_DIR": new}
    )
