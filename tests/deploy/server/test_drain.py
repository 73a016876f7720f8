"""The models and the drain tell each other by files: each reads what the other has written."""

import os
import stat
import tempfile
import threading
import time
from itertools import count

import pytest
from video_llava_server import admission, gate
from video_llava_server import drain as module
from video_llava_server.admission import Admission, AdmissionLimits
from video_llava_server.drain import announce, drain
from video_llava_server.errors import Unavailable
from video_llava_server.gate import Gate
from video_llava_server.runtime_folder import VARIABLE, RuntimeFolder
from video_llava_server.tickets import NEW_FRAMES, NO_FRAMES, SEEN_FRAMES, Ticket


class Server:
    """The parts of intake and vicuna that write and read the files, without Triton."""

    def __init__(self, path):
        self.folder = RuntimeFolder(path)
        self.gate = Gate(self.folder)
        limits = AdmissionLimits(max_requests=3, max_prompt_bytes=1)
        self.admission = Admission(limits, self.folder)
        self._serials = count(1)

    def enter(self, *, image=NO_FRAMES, video=NEW_FRAMES):
        """Let a request pass to the encoders."""
        ticket = Ticket(next(self._serials), time.monotonic(), video, image)
        self.gate.enter(ticket)
        return ticket


@pytest.fixture
def server(tmp_path):
    return Server(tmp_path)


@pytest.fixture
def no_probe(monkeypatch):
    monkeypatch.setattr(Gate, "_is_probe", lambda *_: False)


def refused(server, num_requests=3, **media):
    with pytest.raises(Unavailable, match=f"^UNAVAILABLE: {num_requests} requests are in flight, max_requests is 3: "):
        server.enter(**media)


@pytest.mark.usefixtures("no_probe")
def test_intake_refuses_once_the_model_and_the_way_to_it_are_full(server):
    server.admission.enter("direct", None)
    first = server.enter()
    server.enter()
    refused(server)
    server.admission.enter("a", first)
    refused(server)
    server.admission.leave("a")
    server.enter()
    refused(server)


@pytest.mark.usefixtures("no_probe")
def test_tickets_before_one_that_arrived_with_new_frames_are_lost(server):
    server.enter()
    server.enter(video=SEEN_FRAMES)
    server.admission.enter("a", server.enter())
    server.admission.leave("a")
    for _ in range(3):
        server.enter()
    refused(server)


@pytest.mark.usefixtures("no_probe")
def test_frames_from_the_cache_and_the_other_encoder_tell_nothing(server):
    server.enter()
    server.enter(image=NEW_FRAMES)
    for generation_id, media in (("a", {"video": SEEN_FRAMES}), ("b", {"video": NO_FRAMES, "image": NEW_FRAMES})):
        server.admission.enter(generation_id, server.enter(**media))
        server.admission.leave(generation_id)
    server.enter()
    refused(server)


@pytest.mark.usefixtures("no_probe")
def test_tickets_are_lost_once_the_encoder_has_nothing_to_do(server, monkeypatch):
    for name in ("_MIN_SILENCE_SECONDS", "_MAX_SILENCE_SECONDS"):
        monkeypatch.setattr(admission, name, 0.2)
    server.admission.enter("a", server.enter())
    server.admission.leave("a")
    for _ in range(3):
        server.enter()
    refused(server)
    time.sleep(0.3)
    server.enter()


def test_while_tickets_hold_all_places_a_few_pass_now_and_then(server, monkeypatch):
    monkeypatch.setattr(gate, "_PROBE_SECONDS", 0.1)
    for _ in range(3):
        server.enter()
    probe = server.enter()
    refused(server, 4)
    time.sleep(0.2)
    refused(server, 4)
    server.admission.enter("a", probe)
    server.enter()
    server.enter()


def test_prompts_without_frames_hold_no_place_on_the_way(server):
    for _ in range(9):
        server.enter(video=NO_FRAMES)
    for _ in range(3):
        server.enter()
    server.enter(video=NO_FRAMES)
    for generation_id in "abc":
        server.admission.enter(generation_id, None)
    refused(server, video=NO_FRAMES)
    refused(server, 6)


@pytest.mark.parametrize("name", ["", "new/folder"])
def test_before_the_model_has_said_anything_all_may_pass(tmp_path, monkeypatch, name):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    folder = RuntimeFolder.find({VARIABLE: str(tmp_path / name) if name else ""})
    Gate(folder).enter(Ticket(1, 0.0, NEW_FRAMES, NEW_FRAMES))
    folder.refuse_while_draining()
    assert (folder.drain_ends_at, folder.is_leaving, folder.is_drain_over) == (None, False, False)


def test_models_of_one_server_share_a_folder_that_only_its_user_reads(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    key = RuntimeFolder.find({}).make_key()
    assert RuntimeFolder.find({}).read_key() == key
    (folder,) = tmp_path.iterdir()
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert stat.S_IMODE((folder / "key").stat().st_mode) == 0o600
    monkeypatch.setattr(os, "geteuid", lambda: -1)
    with pytest.raises(PermissionError, match=f"{folder} belongs to somebody else: name a folder in {VARIABLE}"):
        RuntimeFolder.find({})


def test_a_drain_that_is_announced_refuses_nothing_yet(server, tmp_path):
    assert not server.folder.is_leaving
    announce(tmp_path, seconds=0)
    assert server.folder.is_leaving
    server.enter()
    assert server.folder.drain_ends_at is None


def test_a_drain_refuses_new_requests_and_waits_for_running_ones(server, tmp_path):
    ticket = server.enter()
    server.admission.enter("a", None)
    results = []
    draining = threading.Thread(target=lambda: results.append(drain(tmp_path, timeout_seconds=30)))
    draining.start()
    while server.folder.drain_ends_at is None:
        time.sleep(0.01)
    with pytest.raises(
        Unavailable, match=r"^UNAVAILABLE: this server is draining .*: ask another server, reason=draining$"
    ):
        server.enter()
    assert server.folder.is_leaving
    assert not server.folder.is_drain_over

    server.admission.leave("a")
    server.admission.end("a")
    draining.join(timeout=0.6)
    assert draining.is_alive()  # for the one on its way
    server.admission.enter("b", ticket)
    server.admission.leave("b")
    draining.join(timeout=1.2)
    assert draining.is_alive()  # for its last response
    server.admission.end("b")
    draining.join(timeout=30)
    assert results == [True]


def test_a_drain_has_an_end(server, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_GRACE_SECONDS", 0.1)
    server.admission.enter("a", None)
    assert not drain(tmp_path, timeout_seconds=0.1)
    assert server.folder.is_drain_over


def test_a_drain_does_not_wait_for_a_request_that_died_on_the_way(server, tmp_path, monkeypatch):
    monkeypatch.setattr(admission, "_MIN_SILENCE_SECONDS", 0.1)
    server.admission.enter("a", server.enter())
    server.admission.leave("a")
    server.admission.end("a")
    server.enter()
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
