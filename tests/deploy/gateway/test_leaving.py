"""Callers who leave, callers who say nothing, and a gateway that is asked to stop."""

import json
import socket
import ssl
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import httpx
import pytest
from deploy.gateway.helpers import BIKES, RunningGateway, ask, text_part, video_part
from support.certificates import Authority
from support.waiting import wait_until
from video_llava_client import Clip
from video_llava_client.testing import Hang, Reply

HELLO = ask(text_part("What?"))


@pytest.fixture
def connect():
    """Connects, and sends what begins a request; closes all connections at the end."""
    with ExitStack() as stack:

        def connect(gateway, content=b""):
            connection = stack.enter_context(socket.create_connection(("127.0.0.1", gateway.port), timeout=20))
            connection.sendall(content)
            return connection

        yield connect


def head(length, path="/v1/chat/completions"):
    return (
        f"POST {path} HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n"
    ).encode()


def is_closed(connection):
    """Whether the other end closes the connection within a second."""
    connection.settimeout(1)
    try:
        return connection.recv(1) == b""
    except TimeoutError:
        return False
    except ConnectionError:
        return True


@pytest.mark.parametrize("is_stream", [False, True])
@pytest.mark.parametrize("num_choices", [1, 2])
@pytest.mark.parametrize("after_tokens", [0, 2])
def test_who_leaves_is_noticed_by_triton(gateway, server, is_stream, num_choices, after_tokens, connect):
    server.then(Hang(after_tokens=after_tokens))
    body = json.dumps(HELLO | {"stream": is_stream, "n": num_choices}).encode()
    connection = connect(gateway, head(len(body)) + body)
    wait_until(lambda: server.num_open_streams == (num_choices if after_tokens else 1))
    connection.close()
    wait_until(lambda: server.num_open_streams == 0)
    assert all(request.cancelled.wait(10) for request in server.requests)
    wait_until(lambda: gateway.metric("requests_total", key="", status="499") == 1)
    assert gateway.metric("requests_in_flight") == 0


def test_who_leaves_while_media_are_decoded(gateway, server, monkeypatch, connect):
    begun, leave, ended = threading.Event(), threading.Event(), threading.Event()

    def load(*_, loading, **__):
        begun.set()
        assert leave.wait(20)
        while not loading.deadline.is_cancelled:
            time.sleep(0.01)
        ended.set()
        loading.deadline.check()

    monkeypatch.setattr(Clip, "load_window", load)
    body = json.dumps(ask(video_part(BIKES.read_bytes()), text_part("What?"))).encode()
    connection = connect(gateway, head(len(body)) + body)
    assert begun.wait(20)
    connection.close()
    leave.set()
    assert ended.wait(20)
    wait_until(lambda: gateway.metric("requests_total", key="", status="499") == 1)
    assert server.requests == []


def test_who_leaves_before_the_body_has_come(gateway, server, connect):
    connect(gateway, head(100) + b"{").close()
    wait_until(lambda: gateway.metric("requests_total", key="", status="499") == 1)
    assert server.requests == []


def test_a_body_that_does_not_come(start, connect):
    gateway = start(body_seconds=0.5)
    connection = connect(gateway, head(100) + b"{")
    assert b" 408 " in connection.recv(1000)


def test_a_body_without_a_length_that_is_too_large(start):
    gateway = start(max_body_bytes=1000)
    parts = (b" " * 100 for _ in range(1000))
    headers = {"content-type": "application/json"}
    response = httpx.post(f"{gateway.url}/v1/chat/completions", content=parts, headers=headers, timeout=20)
    assert (response.status_code, response.json()["error"]["code"]) == (413, "request_too_large")


def test_bodies_that_are_read_at_a_time_are_bounded(start, connect):
    gateway = start(max_buffered_bytes=1000)
    waiting = connect(gateway, head(900) + b" " * 899)
    wait_until(lambda: gateway.metric("requests_in_flight") == 1)
    full = gateway.post(ask(text_part("a" * 200)))
    assert (full.status_code, full.headers["retry-after"]) == (429, "1")
    waiting.close()
    wait_until(lambda: gateway.post(ask(text_part("a" * 200))).status_code == 200)


def test_silent_connections_end(start, connect):
    gateway = start(idle_seconds=0.5)
    silent, half, kept, endless = (
        connect(gateway),
        connect(gateway, b"GET /version HTTP/1.1\r\nHost:"),
        connect(gateway, b"GET /version HTTP/1.1\r\nHost: a\r\n\r\n"),
        connect(gateway, head(10**9, "/nothing")),
    )
    assert kept.recv(1000).startswith(b"HTTP/1.1 200")
    assert endless.recv(1000).startswith(b"HTTP/1.1 404")
    wait_until(lambda: is_closed(silent) and is_closed(half) and is_closed(kept))
    with pytest.raises(ConnectionError):
        for _ in range(1000):
            endless.sendall(bytes(10_000))
            time.sleep(0.01)


def test_a_request_is_no_silent_connection(start, server):
    server.then(Reply("A cat jumps.", seconds_per_token=0.7))
    gateway = start(idle_seconds=0.5)
    assert gateway.post(HELLO).json()["choices"][0]["message"]["content"] == "A cat jumps."


def test_a_thousand_silent_connections_keep_nobody_out(start, connect):
    gateway = start(max_connections=50, idle_seconds=60)
    for number in range(1000):
        connect(gateway)
        if number % 100 == 99:
            assert gateway.post(HELLO).status_code == 200
    assert len(gateway.server.server_state.connections) <= 50


@pytest.fixture
def certified(start, tmp_path):
    """Starts a gateway with TLS; yields it and what trusts it."""
    authority = Authority("authority")
    signed = authority.sign("127.0.0.1")
    (tmp_path / "cert.pem").write_bytes(signed.certificate)
    (tmp_path / "key.pem").write_bytes(signed.key)
    files = {"ssl_certfile": tmp_path / "cert.pem", "ssl_keyfile": tmp_path / "key.pem"}
    context = ssl.create_default_context(cadata=authority.certificate.decode())
    return lambda **options: (start(uvicorn_options=files, **options), context)


def test_handshakes_that_do_not_end_are_connections(certified, connect):
    gateway, context = certified(max_connections=50, idle_seconds=60)
    url = f"https://127.0.0.1:{gateway.port}/v1/chat/completions"
    hello = b"\x16\x03\x01\x02\x00"
    for number in range(300):
        connect(gateway, hello * (number % 2))
        if number % 100 == 99:
            assert httpx.post(url, json=HELLO, verify=context, timeout=20).status_code == 200
    assert 40 < len(gateway.server.server_state.connections) <= 50


def test_a_handshake_that_fails_or_takes_too_long_leaves_nothing(certified, connect):
    gateway, _ = certified(idle_seconds=1)
    plain, silent = connect(gateway, b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"), connect(gateway)
    wait_until(lambda: is_closed(plain) and is_closed(silent))
    wait_until(lambda: not gateway.server.server_state.connections)


def begin(gateway: RunningGateway, server, body):
    """Send a request; return its future answer, and wait until Triton has it."""
    threads = ThreadPoolExecutor(1)
    answer = threads.submit(gateway.post, body)
    wait_until(lambda: server.num_open_streams == 1)
    return answer


def test_a_drain(start, server):
    gateway = start(drain_seconds=30)
    server.then(Reply("A cat jumps.", seconds_per_token=0.5))
    running = begin(gateway, server, HELLO)
    gateway.drain()
    refused = gateway.post(HELLO)
    assert (refused.status_code, refused.headers["retry-after"]) == (503, "5")
    assert refused.json()["error"]["code"] == "draining"
    assert httpx.get(f"{gateway.url}/health").status_code == 503
    assert running.result(20).json()["choices"][0]["message"]["content"] == "A cat jumps."
    wait_until(lambda: gateway.server.should_exit)


def test_what_runs_after_the_drain_ends_with_an_error(start, server):
    gateway = start(drain_seconds=0.3)
    server.then(Hang(after_tokens=1))
    running = begin(gateway, server, HELLO | {"stream": True})
    gateway.drain()
    lines = running.result(20).text.strip().split("\n\n")
    assert json.loads(lines[-1].removeprefix("data: "))["error"]["code"] == "draining"
    wait_until(lambda: server.num_open_streams == 0)


def test_an_answer_that_takes_too_long(start, server):
    gateway = start(timeout_seconds=0.5)
    server.then(Hang())
    assert gateway.post(HELLO).status_code == 504
    wait_until(lambda: server.num_open_streams == 0)


def test_who_does_not_read_is_given_up(start, server, connect):
    gateway = start(timeout_seconds=1.5)
    server.then(Reply("a" * 5_000_000 + " b" * 100, seconds_per_token=0.001))
    body = json.dumps(HELLO | {"stream": True}).encode()
    connection = connect(gateway)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connection.sendall(head(len(body)) + body)
    wait_until(lambda: server.requests)
    wait_until(lambda: server.num_open_streams == 0 and gateway.metric("requests_in_flight") == 0)
    assert gateway.metric("requests_total", key="", status="504") == 1
    connection.close()
