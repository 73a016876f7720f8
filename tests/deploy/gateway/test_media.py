"""Media of requests: how they may be given, and that each is decoded once."""

import io
import shutil
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import quote

import numpy as np
import pytest
from deploy.gateway.helpers import BIKES, ask, data_url, text_part, video_part
from PIL import Image
from video_llava_client import MediaLimits, SourcePolicy, VideoLlava
from video_llava_gateway.keys import new_key


def picture(number=0, size=(64, 56), form="PNG"):
    pixels = np.random.default_rng(number).integers(0, 256, (size[1], size[0], 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, form)
    return file.getvalue()


def image_part(content, **more):
    return {"type": "image_url", "image_url": {"url": data_url(content, "image/png"), "detail": "auto"}, **more}


def answered(gateway, body, **options):
    response = gateway.post(body, **options)
    assert response.status_code == 200, response.text
    return response.json()


def error_of(gateway, body, **options):
    response = gateway.post(body, **options)
    assert response.status_code == 400, response.text
    return response.json()["error"]


def test_images_before_videos_as_the_grpc_client(gateway, server):
    parts = [video_part(BIKES.read_bytes()), text_part("What differs?"), image_part(picture())]
    answered(gateway, ask(*parts))
    with VideoLlava(server.url) as client:
        client.ask("What differs?", video=BIKES, images=[picture()])
    theirs, ours = server.requests
    assert theirs.prompt == ours.prompt == "USER: <image>\n<video>\nWhat differs? ASSISTANT:"
    assert (theirs.image_frames == ours.image_frames).all()
    assert theirs.metadata["x-video-llava-media-digest"] == ours.metadata["x-video-llava-media-digest"]


def test_placeholders_of_the_text_stay(gateway, server):
    answered(gateway, ask(image_part(picture(1)), image_part(picture(2)), text_part("Is <image> like <image>?")))
    assert server.requests[0].prompt == "USER: Is <image> like <image>? ASSISTANT:"
    error = error_of(gateway, ask(image_part(picture()), text_part("Is <image> like <image>?")))
    assert error["param"] == "messages[0].content"


@pytest.mark.parametrize("num_frames", [1, 3, 8, 10])
@pytest.mark.parametrize("way", ["video/jpeg", "request", "key", "gateway"])
def test_frames_of_one_video(start, server, tmp_path, way, num_frames):
    frames = [picture(number) for number in range(num_frames)]
    body, options, key = ask(*map(image_part, frames), text_part("What happens?")), {}, ""
    if way == "video/jpeg":
        urls = ",".join(data_url(frame).partition(",")[2] for frame in frames)
        part = {"type": "video_url", "video_url": {"url": f"data:video/jpeg;base64,{urls}"}}
        body = ask(part, text_part("What happens?"))
    elif way == "request":
        body["mm_processor_kwargs"] = {"images_as_video": True}
    elif way == "key":
        key, sha256 = new_key()
        keys = tmp_path / "keys.toml"
        keys.write_text(f'eval = {{ sha256 = "{sha256}", images_as_video = true }}\n')
        options = {"keys": keys}
    else:
        options = {"images_as_video": True}
    answered(start(**options), body, headers={"authorization": f"Bearer {key or 1}"})
    decoded = [np.asarray(Image.open(io.BytesIO(frame))) for frame in frames]
    with VideoLlava(server.url) as client:
        if num_frames == 1 and way != "video/jpeg":
            client.ask("What happens?", images=decoded)  # one picture is an image
        else:
            client.ask("What happens?", video=np.stack(decoded))
    theirs, ours = server.requests
    assert theirs.prompt == ours.prompt
    assert theirs.metadata["x-video-llava-media-digest"] == ours.metadata["x-video-llava-media-digest"]


def test_a_part_of_a_video(gateway, server):
    window = {"start_seconds": 1, "end_seconds": 2}
    answered(gateway, ask(video_part(BIKES.read_bytes()), text_part("What?"), mm_processor_kwargs=window))
    with VideoLlava(server.url) as client:
        client.ask("What?", video=BIKES, start_seconds=1, end_seconds=2)
    theirs, ours = server.requests
    assert (theirs.video_frames == ours.video_frames).all()


def test_a_conversation_is_decoded_once(gateway, server):
    messages = ask(video_part(BIKES.read_bytes()), text_part("What?"))["messages"]
    answered(gateway, {"messages": messages})
    messages += [{"role": "assistant", "content": "Bikes."}, {"role": "user", "content": "And then?"}]
    answered(gateway, {"messages": messages})
    first, second = server.requests
    assert second.prompt == "USER: <video>\nWhat? ASSISTANT: Bikes.</s>USER: And then? ASSISTANT:"
    assert (first.video_frames == second.video_frames).all()
    assert (gateway.metric("media_cache_hits_total"), gateway.metric("media_cache_misses_total")) == (1, 1)
    assert gateway.metric("media_decode_seconds_count") == 1


def test_media_of_later_messages_stand_there(gateway, server):
    image = {"role": "user", "content": [image_part(picture()), text_part("And this?")]}
    answered(
        gateway, {"messages": [{"role": "user", "content": "Hi?"}, {"role": "assistant", "content": "Hi."}, image]}
    )
    assert server.requests[0].prompt == "USER: Hi? ASSISTANT: Hi.</s>USER: <image>\nAnd this? ASSISTANT:"


def test_the_cache_is_bounded(start):
    # A clip has 8 x 56 x 56 x 3 bytes.
    gateway = start(cache_bytes=100_000)
    clips = [video_part(BIKES.read_bytes() + bytes(number)) for number in range(2)]
    for clip in (*clips, *clips):
        answered(gateway, ask(clip, text_part("What?")))
    assert gateway.metric("media_cache_misses_total") == 4


def test_a_uuid_stands_for_a_medium_that_is_known(gateway, server):
    by_uuid = ask({"type": "video_url", "video_url": None, "uuid": "clip-7"}, text_part("What?"))
    error = error_of(gateway, by_uuid)
    assert error["param"] == "messages[0].content[0]"
    assert "uuid 'clip-7' is not known (any more): send its data too" in error["message"]
    answered(gateway, ask(video_part(BIKES.read_bytes(), uuid="clip-7"), text_part("What?")))
    answered(gateway, by_uuid)
    first, second = server.requests
    assert (first.video_frames == second.video_frames).all()
    # With data, the data decide.
    answered(gateway, ask(image_part(picture(1), uuid="a"), text_part("What?")))
    answered(gateway, ask(image_part(picture(2), uuid="a"), text_part("What?")))
    assert (server.requests[-1].image_frames != server.requests[-2].image_frames).any()


@pytest.fixture
def files():
    """An HTTP server with the folder of media; yields its address."""
    handler = partial(SimpleHTTPRequestHandler, directory=str(BIKES.parent))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_addresses_of_hosts_that_are_allowed(start, server, files):
    sources = SourcePolicy.untrusted(hosts=("127.0.0.1",), allow_private_networks=True)
    client = {"media_limits": MediaLimits(sources=sources), "isolated": True}
    gateway = start(allows_addresses=True, client=client)

    def asked(url, **more):
        return ask({"type": "video_url", "video_url": {"url": url}, **more}, text_part("What?"))

    answered(gateway, asked(f"{files}/bikes.mp4", uuid="bikes"))
    with VideoLlava(server.url) as theirs:
        theirs.ask("What?", video=BIKES)
    assert (server.requests[0].video_frames == server.requests[1].video_frames).all()
    # An address may have something else the next time, but not a uuid.
    answered(gateway, asked(f"{files}/bikes.mp4"))
    answered(gateway, asked(f"{files}/gone.mp4", uuid="bikes"))
    assert gateway.metric("media_cache_misses_total") == 2
    for url, message in (
        (f"{files.replace('127.0.0.1', 'localhost')}/bikes.mp4", "this host is not allowed"),
        (f"{files}/gone.mp4", "no such file"),
        ("/etc/passwd", "only data:, http: and https: addresses are allowed"),
        ("file:///etc/passwd", "is no file of --allow-local-media"),
    ):
        assert message in error_of(gateway, asked(url))["message"]


def test_files_of_a_folder_that_is_allowed(start, server, tmp_path):
    folder = tmp_path / "media of tests"
    folder.mkdir()
    shutil.copy(BIKES, folder / "a b.mp4")
    (folder / "a.png").write_bytes(picture())
    (tmp_path / "outside.mp4").symlink_to(BIKES)
    (folder / "link.mp4").symlink_to(BIKES)
    (folder / "text.mp4").write_text("text")
    client = {"media_limits": MediaLimits(sources=SourcePolicy.untrusted(hosts=())), "isolated": True}
    gateway = start(local_media=folder, client=client)

    def asked(url, kind="video_url"):
        return ask({"type": kind, kind: {"url": url}}, text_part("What?"))

    for url in (f"file://{folder}/a b.mp4", f"file://{quote(str(folder))}/a%20b.mp4"):
        answered(gateway, asked(url))
    answered(gateway, asked(f"file://{folder}/a.png", "image_url"))
    assert gateway.metric("media_cache_misses_total") == 2
    (folder / "a.png").write_bytes(picture(1))
    answered(gateway, asked(f"file://{folder}/a.png", "image_url"))
    assert gateway.metric("media_cache_misses_total") == 3
    with VideoLlava(server.url) as theirs:
        theirs.ask("What?", video=BIKES)
    assert (server.requests[0].video_frames == server.requests[-1].video_frames).all()
    for url in (
        f"file://{BIKES}",
        f"file://{folder}/../outside.mp4",
        f"file://{folder}/link.mp4",
        f"file://{folder}/gone.mp4",
        f"file://{folder}",
        f"file://{folder}/%00",
        "file:///etc/passwd",
    ):
        assert "is no file of --allow-local-media" in error_of(gateway, asked(url))["message"]
    assert "text.mp4: cannot be read" in error_of(gateway, asked(f"file://{folder}/text.mp4"))["message"]


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("/etc/passwd", "only data: addresses are allowed"),
        ("file:///etc/passwd", "is no file of --allow-local-media"),
        ("https://example.com/a.mp4", "only data: addresses are allowed"),
        ("data:video/mp4,abc", "expected data:TYPE;base64"),
        ("data:video/mp4;base64,ab*d", "its base64 is damaged"),
        ("data:video/mp4;base64,abc", "its base64 is damaged"),
        ("data:video/mp4;base64,", "is empty"),
        ("data:video/jpeg;base64,AAAA,", "is empty"),
        ("data:video/mp4;base64,ä", "its base64 is damaged"),
        (data_url(b"no video"), "<bytes>: "),
        (data_url(picture()), "is a picture, not a video"),
    ],
)
def test_media_that_cannot_be_used_are_named(gateway, server, url, message):
    error = error_of(gateway, ask(text_part("What?"), {"type": "video_url", "video_url": {"url": url}}))
    assert (error["param"], error["code"]) == ("messages[0].content[1]", "invalid_media")
    assert error["message"].startswith("messages[0].content[1]: ")
    assert message in error["message"]
    assert server.requests == []


def test_more_media_than_the_context_holds_are_not_decoded(gateway):
    videos = [video_part(b"no video")] * 40
    error = error_of(gateway, ask(*videos, text_part("What?")))
    assert (error["param"], error["code"]) == ("messages", "context_length_exceeded")
