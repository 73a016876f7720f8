"""What a server says of itself, and whether it works."""

import asyncio

import grpc
import pytest
from video_llava_client import AsyncVideoLlava, Internal, ModelLimits, Unavailable, VideoLlava
from video_llava_client.testing import FakeServer, Refuse


@pytest.fixture
def server():
    with FakeServer() as running:
        yield running


def test_info(server):
    with VideoLlava(server.url) as client:
        info = client.info()
    assert (info.url, info.version, info.is_ready) == (server.url, "fake", True)
    assert [(model.name, model.state) for model in info.models][-1] == ("video_llava", "READY")
    assert info.limits is not None
    assert info.limits == ModelLimits(
        image_size=56, num_frames=8, tokens_per_frame=17, tokens_per_image=16, max_model_len=4096
    )
    assert info.limits.tokens_per_video == 136


def test_info_where_the_repository_is_closed_to_clients(monkeypatch):
    def refuse(_self, _request, context):
        context.abort(grpc.StatusCode.UNAVAILABLE, "This protocol is restricted, expecting header 'triton-grpc-...'")

    monkeypatch.setattr(FakeServer, "RepositoryIndex", refuse)
    with FakeServer() as closed, VideoLlava(closed.url) as client:
        info = client.info()
    assert info.is_ready
    assert [model.name for model in info.models] == [
        "video_llava",
        "intake",
        "video_encoder",
        "image_encoder",
        "vicuna",
        "relay",
    ]


def test_info_with_asyncio(server):
    async def ask():
        async with AsyncVideoLlava(server.url) as client:
            return await client.info()

    limits = asyncio.run(ask()).limits
    assert limits is not None
    assert limits.max_model_len == 4096


def test_a_server_of_an_earlier_release_tells_no_limits(triton):
    with VideoLlava(triton.url) as client:
        assert client.info().limits is None


def test_info_of_nobody():
    with VideoLlava("127.0.0.1:1") as client, pytest.raises(Unavailable, match="cannot reach"):
        client.info()


@pytest.mark.parametrize("media", [False, True])
def test_a_probe_is_one_real_token(server, media):
    with VideoLlava(server.url) as client:
        probe = client.probe(media=media)
        client.probe(media=media)
    assert (probe.text, probe.num_attempts) == ("This", 1)
    assert 0 < probe.seconds < 10
    first, second = server.requests
    assert first.sampling == {"max_tokens": 1, "temperature": 0.0}
    assert first.num_media == (int(media), 0)
    if media:
        assert (first.video_frames != second.video_frames).any()  # no cache knows it


def test_a_probe_of_a_broken_engine(server):
    server.then(Refuse("INTERNAL: the engine died"))
    with VideoLlava(server.url) as client, pytest.raises(Internal, match="the engine died"):
        client.probe()


def test_a_probe_with_asyncio(server):
    async def ask():
        async with AsyncVideoLlava(server.url) as client:
            return await client.probe(media=True)

    assert asyncio.run(ask()).text == "This"
