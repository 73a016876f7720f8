"""`info` and `probe`: what a server says about itself, and whether it works."""

import grpc
import pytest
from client.helpers import replace_method
from video_llava_client import Internal, ModelLimits
from video_llava_client.messages import messages
from video_llava_client.testing import Refuse


def test_info(connect, server):
    info = connect(server.url).call("info")
    assert (info.url, info.version, info.is_ready) == (server.url, "fake", True)
    assert [(model.name, model.state) for model in info.models][-1] == ("video_llava", "READY")
    assert info.limits == ModelLimits(
        image_size=56, num_frames=8, tokens_per_frame=17, tokens_per_image=16, max_model_len=4096
    )
    assert info.limits.tokens_per_video == 136


def test_info_where_the_repository_is_closed_to_clients(connect, server, monkeypatch):
    def refuse(_self, _request, context):
        context.abort(grpc.StatusCode.UNAVAILABLE, "This protocol is restricted, expecting header 'triton-grpc-...'")

    replace_method(monkeypatch, server, "RepositoryIndex", refuse)
    info = connect(server.url).call("info")
    assert info.is_ready
    steps = ["intake", "video_encoder", "image_encoder", "vicuna", "relay"]
    assert [model.name for model in info.models] == ["video_llava", *steps]


def test_a_server_of_an_earlier_release_has_no_limits(connect, server, monkeypatch):
    def refuse(_self, _request, context):
        context.abort(grpc.StatusCode.INVALID_ARGUMENT, "unexpected inference output 'limits' for model 'intake'")

    replace_method(monkeypatch, server, "ModelConfig", lambda *_: messages.ModelConfigResponse())
    assert connect(server.url).call("info").limits is not None  # a later one has them as an output
    replace_method(monkeypatch, server, "ModelInfer", refuse)
    assert connect(server.url).call("info").limits is None


def test_a_proxy_that_closes_the_configuration(connect, server, monkeypatch):
    def refuse(_self, _request, context):
        context.abort(grpc.StatusCode.PERMISSION_DENIED, "this method is not open to clients")

    replace_method(monkeypatch, server, "ModelConfig", refuse)
    client = connect(server.url)
    assert client.call("ask", "What happens?").text
    assert client.call("info").limits is not None


@pytest.mark.parametrize("media", [False, True])
def test_a_probe_is_one_real_token(connect, server, media):
    client = connect(server.url)
    probe, _ = client.call("probe", media=media), client.call("probe", media=media)
    assert (probe.text, probe.num_attempts) == ("This", 1)
    assert probe.seconds > 0
    first, second = server.requests
    assert first.sampling == {"max_tokens": 1, "temperature": 0.0}
    assert first.num_media == (int(media), 0)
    if media:
        assert (first.video_frames != second.video_frames).any()  # no cache has it


def test_a_probe_of_a_broken_engine(connect, server):
    server.then(Refuse("INTERNAL: the engine died"))
    with pytest.raises(Internal, match="the engine died"):
        connect(server.url).call("probe")
