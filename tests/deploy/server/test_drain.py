"""The models and the drain tell each other by files: each reads what the other has written."""

import threading
import time

import pytest
from video_llava_server import drain as module
from video_llava_server import gate
from video_llava_server.admission import Admission, AdmissionLimits
from video_llava_server.drain import announce, drain
from video_llava_server.errors import Unavailable
from video_llava_server.runtime_folder import RuntimeFolder


class Server:
    """The parts of intake and vicuna that write and read the files, without Triton."""

    def __init__(self, path):
        self.folder = RuntimeFolder(path)
        self.gate = gate.Gate(self.folder)
        self.admission = Admission(AdmissionLimits(max_requests=3, max_prompt_bytes=1), self.folder)


@pytest.fixture
def server(tmp_path):
    return Server(tmp_path)


def test_intake_refuses_once_the_model_and_the_way_to_it_are_full(server):
    server.admission.enter("direct", is_in_ensemble=False)
    server.gate.enter()
    server.gate.enter()
    with pytest.raises(Unavailable, match=r"^UNAVAILABLE: 3 requests are in flight, max_requests is 3: .*=0\.1$"):
        server.gate.enter()
    server.admission.enter("a", is_in_ensemble=True)
    with pytest.raises(Unavailable, match="3 requests are in flight"):
        server.gate.enter()
    server.admission.leave("a")
    server.gate.enter()
    with pytest.raises(Unavailable, match="3 requests are in flight"):
        server.gate.enter()


def test_a_request_that_never_reaches_the_model_is_forgotten_in_the_end(server, monkeypatch):
    for _ in range(3):
        server.gate.enter()
    with pytest.raises(Unavailable, match="3 requests are in flight"):
        server.gate.enter()
    monkeypatch.setattr(gate, "_LOST_AFTER_SECONDS", 0.0)
    server.gate.enter()


@pytest.mark.parametrize("name", ["", "new/folder"])
def test_before_the_model_has_said_anything_all_may_pass(tmp_path, name):
    folder = RuntimeFolder.find({"VIDEO_LLAVA_RUNTIME_DIR": str(tmp_path / name) if name else ""})
    gate.Gate(folder).enter()
    folder.refuse_while_draining()
    assert (folder.drain_ends_at, folder.is_leaving, folder.is_drain_over) == (None, False, False)


def test_a_drain_that_is_announced_refuses_nothing_yet(server, tmp_path):
    assert not server.folder.is_leaving
    announce(tmp_path, seconds=0)
    assert server.folder.is_leaving
    server.gate.enter()
    assert server.folder.drain_ends_at is None


def test_a_drain_refuses_new_requests_and_waits_for_running_ones(server, tmp_path):
    server.gate.enter()
    server.admission.enter("a", is_in_ensemble=False)
    results = []
    draining = threading.Thread(target=lambda: results.append(drain(tmp_path, timeout_seconds=30)))
    draining.start()
    while server.folder.drain_ends_at is None:
        time.sleep(0.01)
    with pytest.raises(Unavailable, match=r"^UNAVAILABLE: this server is draining .*: ask another server$"):
        server.gate.enter()
    assert server.folder.is_leaving
    assert not server.folder.is_drain_over

    server.admission.leave("a")
    draining.join(timeout=0.6)
    assert draining.is_alive()  # for the one on its way
    server.admission.enter("b", is_in_ensemble=True)
    server.admission.leave("b")
    draining.join(timeout=30)
    assert results == [True]


def test_a_drain_has_an_end(server, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_GRACE_SECONDS", 0.1)
    server.admission.enter("a", is_in_ensemble=True)
    assert not drain(tmp_path, timeout_seconds=0.1)
    assert server.folder.is_drain_over


def test_a_drain_does_not_wait_for_a_request_that_died_on_the_way(server, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_LATE_SECONDS", 0.1)
    server.gate.enter()
    assert drain(tmp_path, timeout_seconds=30)


def test_a_server_that_starts_again_in_its_old_folder_does_not_drain(tmp_path):
    announce(tmp_path, seconds=0)
    drain(tmp_path, timeout_seconds=0)
    again = RuntimeFolder(tmp_path)
    assert again.is_leaving
    assert again.drain_ends_at is not None
    again.forget_drain()
    assert not again.is_leaving
    again.refuse_while_draining()
