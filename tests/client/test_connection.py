"""The connection: addresses, headers, retries, encryption."""

import asyncio
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import grpc
import numpy as np
import pytest
from PIL import Image
from support.certificates import Authority
from support.waiting import wait_until
from video_llava_client import (
    DIGEST_HEADER,
    AccessDenied,
    Cancelled,
    DeadlineExceeded,
    InvalidRequest,
    OptionError,
    RequestTooLarge,
    Retry,
    ServerError,
    Tls,
    Unavailable,
    VideoLlava,
)
from video_llava_client.addresses import parse_addresses
from video_llava_client.channel import channel_options
from video_llava_client.deadline import Deadline
from video_llava_client.retry import Attempts
from video_llava_client.testing import Abort, FakeServer, Hang, Refuse, Reply

ONCE = Retry(num_attempts=1)

# Addresses


@pytest.mark.parametrize(
    ("url", "addresses"),
    [
        ("localhost:8001", ("localhost:8001",)),
        ("a:1,b:2", ("a:1", "b:2")),
        (["a:1", "[::1]:2"], ("a:1", "[::1]:2")),
        ("dns:///triton.example:8001", ("dns:///triton.example:8001",)),
        ("ipv4:10.0.0.1:1,10.0.0.2:2", ("ipv4:10.0.0.1:1,10.0.0.2:2",)),
        ("unix:/run/triton.sock", ("unix:/run/triton.sock",)),
    ],
)
def test_addresses(url, addresses):
    assert parse_addresses(url) == addresses


@pytest.mark.parametrize("url", ["", "a", "a:", ":1", "a:1,", "a:99999", "https://a:1", "a:b"])
def test_what_is_no_address(url):
    with pytest.raises(OptionError, match="url must be host:port without a scheme"):
        parse_addresses(url)


def test_no_address_at_all():
    with pytest.raises(OptionError, match="at least one address"):
        VideoLlava([])


def test_several_addresses_are_used_in_turn(connect):
    with FakeServer() as one, FakeServer() as two:
        client = connect(f"{one.url},{two.url}")
        for _ in range(7):
            client.ask()
        assert (len(one.requests), len(two.requests)) == (4, 3)


def pictures(number):
    return [np.full((56, 56, 3), each, np.uint8) for each in range(number)]


def test_a_picture_goes_to_the_server_that_has_it(connect):
    with FakeServer() as one, FakeServer() as two:
        client = connect([one.url, two.url])
        for _ in range(3):
            for picture in pictures(24):
                client.ask(images=[picture])
        servers = [{request.metadata[DIGEST_HEADER] for request in server.requests} for server in (one, two)]
    assert servers[0].isdisjoint(servers[1])
    assert len(servers[0] | servers[1]) == 24
    assert min(map(len, servers)) > 1


def test_no_server_gets_much_more_than_its_share_of_what_runs_at_a_time():
    with FakeServer(Hang()) as one, FakeServer(Hang()) as two, ThreadPoolExecutor(16) as threads:
        with VideoLlava([one.url, two.url], timeout_seconds=60) as client:
            asked = [threads.submit(client.ask, "What?", images=pictures(1)) for _ in range(16)]
            wait_until(lambda: len(one.requests) + len(two.requests) == 16)
            assert min(len(one.requests), len(two.requests)) >= 5
        assert all(isinstance(each.exception(), Cancelled) for each in asked)


def test_the_server_that_has_a_picture_is_gone(connect):
    with FakeServer() as one, FakeServer() as two:
        client = connect([one.url, two.url])
        client.ask(images=pictures(1))
        has_it, other = (one, two) if one.requests else (two, one)
        has_it.stop()
        client.ask(images=pictures(1))
        assert len(other.requests) == 1


def test_grpcs_own_list_of_addresses_takes_turns():
    with FakeServer() as one, FakeServer() as two:
        with VideoLlava(f"ipv4:{one.url},{two.url}") as client:
            deadline = time.monotonic() + 10
            # gRPC begins with the first that it is connected to.
            while not (len(one.requests) > 3 and len(two.requests) > 3):
                client.ask("Hello?")
                assert time.monotonic() < deadline
            before = len(one.requests), len(two.requests)
            for _ in range(10):
                client.ask("Hello?")
        assert (len(one.requests) - before[0], len(two.requests) - before[1]) == (5, 5)


def test_a_name_is_resolved_by_dns(server):
    with VideoLlava(server.url.replace("127.0.0.1", "dns:///localhost")) as client:
        assert client.ask("Hello?").text


DRAINING = Refuse("UNAVAILABLE: this server is draining before its stop: ask another server, reason=draining")


@pytest.mark.parametrize("is_draining", [False, True])
def test_a_server_that_is_gone_or_draining_is_skipped(is_draining):
    with FakeServer(DRAINING) as one, FakeServer() as two, VideoLlava([one.url, two.url]) as client:
        if not is_draining:
            one.stop()
        answers = [client.ask("Hello?") for _ in range(6)]
    # That a server is gone is found before the first question, when the client asks what the model wants.
    assert [answer.num_attempts for answer in answers] == [1 + is_draining, 1, 1, 1, 1, 1]
    assert (len(one.requests), len(two.requests)) == (int(is_draining), 6)


def test_the_name_of_a_nowhere(connect):
    with pytest.raises(Unavailable, match=r"cannot reach nowhere\.invalid:1 .*check the name in the address"):
        connect("nowhere.invalid:1", retry=ONCE, timeout_seconds=20).ask()


def test_a_port_that_takes_connections_and_says_nothing(connect):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        started = time.monotonic()
        with pytest.raises(Unavailable, match="check the address"):
            connect(f"127.0.0.1:{silent.getsockname()[1]}", retry=ONCE, connect_timeout_seconds=0.5).ask()
    assert time.monotonic() - started < 10


def test_the_channels_options():
    def options(**arguments):
        return dict(channel_options(VideoLlava("localhost:8001", **arguments)._settings))

    given = options(keepalive_seconds=400, connect_timeout_seconds=3, tls=Tls(server_name="x"))
    assert given["grpc.keepalive_time_ms"] == 400_000
    assert given["grpc.min_reconnect_backoff_ms"] == 3000
    assert given["grpc.ssl_target_name_override"] == "x"
    assert "round_robin" in given["grpc.service_config"]
    assert given["grpc.enable_retries"] == 0  # a stream may hang with them
    assert "grpc.keepalive_time_ms" not in options(keepalive_seconds=None)
    assert options()["grpc.keepalive_time_ms"] >= 300_000  # Triton closes connections that are tested more often


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"timeout_seconds": 0}, "timeout_seconds must be more than 0"),
        ({"connect_timeout_seconds": -1}, "connect_timeout_seconds must be more than 0"),
        ({"keepalive_seconds": float("inf")}, "keepalive_seconds must be more than 0 and finite"),
        ({"max_message_bytes": 2**31}, "max_message_bytes must be 1 to 2147483647"),
        ({"headers": {"Bad Name": "x"}}, "'Bad Name' is not a valid name"),
        ({"headers": {"grpc-timeout": "1"}}, "'grpc-timeout' is not a valid name"),
        ({"headers": {"x": "a\nb"}}, r"x must be printable ASCII, got 'a\\nb'"),
        ({"headers": {"x" * 9000: "ü"}}, "must be printable ASCII"),
    ],
)
def test_options_that_cannot_be_used(options, message):
    with pytest.raises(OptionError, match=message) as caught:
        VideoLlava("localhost:8001", **options)
    assert len(str(caught.value)) <= 500


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_attempts": 0}, "num_attempts must be at least 1"),
        ({"first_wait_seconds": -1}, "first_wait_seconds must be 0 or more"),
        ({"max_wait_seconds": float("nan")}, "max_wait_seconds must be 0 or more"),
    ],
)
def test_retries_that_cannot_be(options, message):
    with pytest.raises(OptionError, match=message):
        Retry(**options)


# Headers


def test_headers_and_a_fresh_token_for_each_attempt(server):
    server.then(Refuse("UNAVAILABLE: full"), Reply())
    tokens = iter(["for the limits", "stale", "fresh", "third"])
    options = {"headers": {"x-team": "cats"}, "token": lambda: next(tokens), "retry": Retry(first_wait_seconds=0)}
    with VideoLlava(server.url, **options) as client:
        client.ask("Hello?")
        client.ask("Hello?")
    metadata = [request.metadata for request in server.requests]
    assert [each["authorization"] for each in metadata] == ["Bearer stale", "Bearer fresh", "Bearer third"]
    assert metadata[0]["x-team"] == "cats"


def test_a_token_that_must_be_awaited(connect, server):
    async def token():
        await asyncio.sleep(0)
        return "awaited"

    client = connect(server.url, token=token)
    if isinstance(client.client, VideoLlava):
        with pytest.raises(OptionError, match="only AsyncVideoLlava can await it"):
            client.ask()
    else:
        client.ask()
        assert server.requests[0].metadata["authorization"] == "Bearer awaited"


@pytest.mark.parametrize("token", [lambda: 7, lambda: "a\nb", "ü"])
def test_what_is_no_token(server, token):
    with pytest.raises(OptionError, match="token must be a printable ASCII text"):
        VideoLlava(server.url, token=token).ask("Hello?")


def test_a_token_does_not_travel_unencrypted():
    with pytest.raises(OptionError, match=r"the token would be sent to triton\.example:8001 unencrypted"):
        VideoLlava("triton.example:8001", token="secret")
    assert "secret" not in repr(VideoLlava("triton.example:8001", tls=Tls(), token="secret")._settings)


def test_the_digest_depends_on_the_media_alone(server):
    photos = [Image.fromarray(np.full((60, 80, 3), shade, np.uint8)) for shade in (0, 9)]
    with VideoLlava(server.url) as client:
        client.ask("Hello?")
        for photo, question in ((photos[0], "What?"), (photos[0], "Where?"), (photos[1], "What?")):
            client.ask(question, images=photo)
    digests = [request.metadata.get(DIGEST_HEADER) for request in server.requests]
    assert digests[0] is None
    assert digests[1] == digests[2] != digests[3]
    assert len(digests[1]) == 32


def test_the_trace_goes_on_where_there_is_one(server):
    from opentelemetry import trace
    from opentelemetry.sdk.trace import TracerProvider

    tracer = TracerProvider().get_tracer("test")
    with VideoLlava(server.url) as client, tracer.start_as_current_span("asking") as span:
        client.ask("Hello?")
    assert format(span.get_span_context().trace_id, "032x") in server.requests[0].metadata["traceparent"]
    assert trace.get_current_span() is not span


def test_opentelemetry_is_not_imported_for_it(server):
    code = (
        "import sys; from video_llava_client import VideoLlava; VideoLlava(sys.argv[1]).ask('Hello?');"
        "assert not any(name.startswith('opentelemetry') for name in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code, server.url], check=True, timeout=60)
    assert "traceparent" not in server.requests[0].metadata


def test_the_size_of_a_message_is_checked_before_it_is_sent(server):
    with VideoLlava(server.url, max_message_bytes=100_000) as client:
        client.ask("Hello?", images=np.zeros((56, 56, 3), np.uint8))
        with pytest.raises(RequestTooLarge, match=r"the request has \d+ bytes \(0 videos, 20 images, .* is 100000"):
            client.ask("Hello?", images=[np.zeros((56, 56, 3), np.uint8)] * 20)
    assert len(server.requests) == 1


# Retries


def test_what_may_succeed_later_is_asked_again(connect, server):
    server.then(Refuse("UNAVAILABLE: full: try later"), Abort(), Reply())
    answer = connect(server.url, retry=Retry(first_wait_seconds=0.1)).ask()
    assert (answer.text, answer.num_attempts) == ("This is a fake answer.", 3)
    assert 0.1 < answer.stage_seconds.retries < answer.stage_seconds.total
    assert len({request.id for request in server.requests}) == 1


def test_the_attempts_are_counted(connect, server):
    server.then(Refuse("UNAVAILABLE: full: try later"))
    with pytest.raises(Unavailable, match="full: try later"):
        connect(server.url, retry=Retry(num_attempts=3, first_wait_seconds=0.01)).ask()
    assert len(server.requests) == 3


def test_a_draining_server_is_asked_until_another_answers(connect, server):
    # As behind a proxy that hashes, or one name of many servers: the client cannot choose the next server.
    server.then(*[DRAINING] * 6, Reply())
    retry = Retry(num_attempts=2, first_wait_seconds=0.01)
    assert connect(server.url, retry=retry).ask().num_attempts == 7


def test_without_retries_a_draining_server_is_asked_once(connect, server):
    server.then(DRAINING)
    with pytest.raises(Unavailable, match="ask another server") as caught:
        connect(server.url, retry=ONCE).ask()
    assert caught.value.reason == "draining"
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    ("step", "error"),
    [
        (Refuse("INVALID_ARGUMENT: no"), InvalidRequest),
        (Refuse("INTERNAL: broken"), ServerError),
        (Abort(grpc.StatusCode.UNAUTHENTICATED, "who are you"), AccessDenied),
        (Abort(grpc.StatusCode.PERMISSION_DENIED, "not you"), AccessDenied),
        (Abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "too large"), InvalidRequest),
        (Abort(details="This protocol is restricted, expecting header"), AccessDenied),
        (Refuse("the engine made a face"), ServerError),
    ],
)
def test_what_will_not_be_better_is_asked_once(server, step, error):
    server.then(step)
    with pytest.raises(error, match=r"no|broken|denied access|too large|face"):
        VideoLlava(server.url).ask("Hello?")
    assert len(server.requests) == 1


def test_the_waits_grow_and_differ():
    def waits():
        attempts = Attempts(Retry(num_attempts=9, first_wait_seconds=1, max_wait_seconds=4), Deadline(600))
        for _ in range(5):
            attempts.num += 1
            yield attempts.delay_seconds(Unavailable("full"))

    many = [list(waits()) for _ in range(200)]
    for position, longest in enumerate((1, 2, 4, 4, 4)):
        column = [each[position] for each in many]
        assert longest / 2 <= min(column) < longest * 0.6
        assert longest * 0.9 < max(column) <= longest


def test_the_deadline_is_one_for_all_attempts(server):
    server.then(Refuse("UNAVAILABLE: full"))
    # It passes between two attempts, or within one.
    with pytest.raises((Unavailable, DeadlineExceeded), match=r"full|no complete answer"):
        VideoLlava(server.url, timeout_seconds=1, retry=Retry(num_attempts=99, first_wait_seconds=0.1)).ask("Hello?")
    # gRPC rounds what it sends up.
    assert 1.1 > server.requests[0].seconds_left > server.requests[-1].seconds_left


@pytest.mark.parametrize(
    "text",
    [
        "Server is stopping, scheduler for model has stopped accepting new inference requests",
        "Exceeds maximum queue size",
        "Request for unknown model: 'vicuna' has no available versions",
    ],
)
def test_tritons_own_texts_that_mean_later(server, text):
    server.then(Refuse(text), Reply())
    assert VideoLlava(server.url, retry=Retry(first_wait_seconds=0)).ask("Hello?").num_attempts == 2


# Encryption


@pytest.fixture(scope="module")
def authority():
    return Authority("ours")


@pytest.fixture(scope="module")
def stranger():
    return Authority("another")


def credentials(signed, *, client_authority=None):
    return grpc.ssl_server_credentials(
        [(signed.key, signed.certificate)],
        root_certificates=client_authority.certificate if client_authority else None,
        require_client_auth=client_authority is not None,
    )


def test_tls(connect, authority, tmp_path):
    ca = tmp_path / "ca.pem"
    ca.write_bytes(authority.certificate)
    with FakeServer(credentials=credentials(authority.sign("127.0.0.1"))) as server:
        assert connect(server.url, tls=Tls(root_certificates=ca), token="secret").ask().text
        assert server.requests[0].metadata["authorization"] == "Bearer secret"


def test_tls_of_an_unknown_authority(connect, authority, stranger):
    tls = Tls(root_certificates=authority.certificate)
    with (
        FakeServer(credentials=credentials(stranger.sign("127.0.0.1"))) as server,
        pytest.raises(Unavailable, match=r"cannot reach .*check that tls names the authority"),
    ):
        connect(server.url, tls=tls, retry=ONCE).ask()


def test_tls_of_another_name(authority):
    with FakeServer(credentials=credentials(authority.sign("triton.example"))) as server:
        tls = Tls(root_certificates=authority.certificate)
        with pytest.raises(Unavailable, match="check that the address is a name in the server's certificate"):
            VideoLlava(server.url, tls=tls, retry=ONCE).ask("Hello?")
        tls = Tls(root_certificates=authority.certificate, server_name="triton.example")
        assert VideoLlava(server.url, tls=tls).ask("Hello?").text


def test_tls_where_the_server_has_none(server, authority):
    with pytest.raises(Unavailable, match="does not speak TLS"):
        VideoLlava(server.url, tls=Tls(root_certificates=authority.certificate), retry=ONCE).ask("Hello?")


def test_no_tls_where_the_server_wants_it(authority):
    with (
        FakeServer(credentials=credentials(authority.sign("127.0.0.1"))) as server,
        pytest.raises(Unavailable, match="cannot reach"),
    ):
        VideoLlava(server.url, retry=ONCE).ask("Hello?")


def test_mutual_tls(connect, authority, stranger):
    ours = authority.sign("client")
    with FakeServer(credentials=credentials(authority.sign("127.0.0.1"), client_authority=authority)) as server:
        roots = authority.certificate
        tls = Tls(root_certificates=roots, certificate=ours.certificate, key=ours.key)
        assert connect(server.url, tls=tls).ask().text
        theirs = stranger.sign("client")
        for bad in (
            Tls(root_certificates=roots),
            Tls(root_certificates=roots, certificate=theirs.certificate, key=theirs.key),
        ):
            with pytest.raises(Unavailable, match="cannot reach"):
                connect(server.url, tls=bad, retry=ONCE).ask()
        assert len(server.requests) == 1


def test_tls_settings_that_cannot_be_used(tmp_path):
    with pytest.raises(OptionError, match="mutual TLS needs both"):
        Tls(certificate=b"x")
    with pytest.raises(OptionError, match=r"cannot read root_certificates .*no\.pem"):
        Tls(root_certificates=tmp_path / "no.pem")
