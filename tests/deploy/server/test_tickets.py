"""A ticket is good once, and only if this server made it."""

import time

import pytest
from video_llava_server.errors import InvalidArgument
from video_llava_server.tensors import strings
from video_llava_server.tickets import NEW_FRAMES, NO_FRAMES, TicketInspector, TicketOffice

KEY = bytes(32)


@pytest.fixture
def office():
    return TicketOffice(KEY)


@pytest.fixture
def inspector():
    return TicketInspector(lambda: KEY)


def issue(office, *, seconds_ago=0.0):
    ticket = office.issue(time.monotonic() - seconds_ago, NEW_FRAMES, NO_FRAMES)
    return ticket, office.seal(ticket)


def refuse(inspector, sealed):
    with pytest.raises(InvalidArgument, match="ticket is not one of this server's, is used or has expired"):
        inspector.take({"ticket": strings([sealed])})


def test_a_ticket_says_what_was_noted_and_is_good_once(office, inspector):
    assert inspector.take({}) is None
    (first, sealed_first), (second, sealed_second) = issue(office), issue(office)
    assert inspector.take({"ticket": strings([sealed_second])}) == second
    assert inspector.take({"ticket": strings([sealed_first])}) == first
    refuse(inspector, sealed_first)
    refuse(inspector, sealed_second)


def test_what_this_server_did_not_make_is_refused(office, inspector):
    _, sealed = issue(office)
    _, foreign = issue(TicketOffice(b"x" * 32))
    last = "0" if sealed[-1] != "0" else "1"
    for forged in ("", "zz", "é", sealed[:-2], sealed + "00", sealed[:-1] + last, "ff" + sealed[2:], foreign):
        refuse(inspector, forged)
    assert inspector.take({"ticket": strings([sealed])})


def test_a_ticket_expires(office, inspector):
    refuse(inspector, issue(office, seconds_ago=3601)[1])


def test_a_ticket_older_than_the_remembered_ones_is_refused(office, inspector, monkeypatch):
    monkeypatch.setattr("video_llava_server.tickets._NUM_REMEMBERED", 4)
    sealed = [issue(office)[1] for _ in range(5)]
    assert inspector.take({"ticket": strings([sealed[4]])})
    refuse(inspector, sealed[0])
