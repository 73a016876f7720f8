"""What a server's model wants, and what the client then does."""

from typing import Any

import numpy as np
import pytest
from PIL import Image
from support.original_code import PICTURES, arrays, picture
from video_llava_client import (
    Clip,
    Conventions,
    DecoderProcesses,
    Internal,
    MediaError,
    ModelLimits,
    OptionError,
    VideoLlava,
    build_prompt,
    load_image,
)
from video_llava_client.sampling import sample_indices
from video_llava_client.testing import FakeServer

ORIGINAL = Conventions(
    sampling="linspace",
    video_resize="bilinear",
    image_resize="bicubic",
    image_padding=(122, 116, 104),
    system="A chat.",
)
MEAN, STD = np.array([0.48145466, 0.4578275, 0.40821073]), np.array([0.26862954, 0.26130258, 0.27577711])
LIMITS: dict[str, Any] = {
    "image_size": 56,
    "num_frames": 8,
    "tokens_per_frame": 17,
    "tokens_per_image": 16,
    "max_model_len": 4096,
}


@pytest.fixture
def server():
    with FakeServer(limits=ModelLimits(**LIMITS, conventions=ORIGINAL)) as server:
        yield server


def test_frames_and_prompt_are_as_the_server_wants(connect, server):
    video, image = picture(0, (20, 90, 120, 3)), picture(1, (90, 120, 3))
    connect(server.url).ask("What?", video=video, images=image)
    (request,) = server.requests
    assert request.prompt == "A chat. USER: <image>\n<video>\nWhat? ASSISTANT:"
    frames = Clip.load(video, size=56, conventions=ORIGINAL)
    assert frames.info.indices == (0, 2, 5, 8, 10, 13, 16, 19)
    assert np.array_equal(request.video_frames, frames.frames)
    assert np.array_equal(request.image_frames[0], load_image(image, size=56, conventions=ORIGINAL))
    assert not np.array_equal(frames.frames, Clip.load(video, size=56).frames)


def test_chats_begin_with_the_system_text_and_whole_prompts_do_not(server):
    with VideoLlava(server.url) as client:
        chat = client.chat()
        chat.ask("One?")
        chat.ask("Two?")
        client.ask(prompt="USER: Whole? ASSISTANT:")
    assert [request.prompt for request in server.requests] == [
        "A chat. USER: One? ASSISTANT:",
        "A chat. USER: One? ASSISTANT: This is a fake answer.</s>USER: Two? ASSISTANT:",
        "USER: Whole? ASSISTANT:",
    ]


def test_a_client_may_say_its_own(server):
    with VideoLlava(server.url) as client:
        own = client.with_options(conventions=Conventions())
        own.ask("What?")
        assert (client.conventions(), own.conventions()) == (ORIGINAL, Conventions())
    assert server.requests[0].prompt == "USER: What? ASSISTANT:"


def test_a_server_that_does_not_say_means_the_default():
    with FakeServer() as server, VideoLlava(server.url) as client:
        assert client.conventions() == Conventions()
        limits = client.info().limits
    assert limits is not None
    assert limits.conventions.to_json() == {}


def test_what_this_client_does_not_know_is_refused():
    with pytest.raises(Internal, match="wants sampling 'keyframes', this client knows arange, linspace: update it"):
        Conventions.from_facts({"sampling": "keyframes"})


@pytest.mark.parametrize(
    ("num_frames", "indices"),
    [(8, tuple(range(8))), (1, (0,) * 8), (3, (0, 0, 0, 0, 1, 1, 1, 2)), (100, (0, 14, 28, 42, 56, 70, 84, 99))],
)
def test_linspace(num_frames, indices):
    assert sample_indices(num_frames, "linspace") == indices
    assert indices == tuple(np.linspace(0, num_frames - 1, 8, dtype=int).tolist())


@pytest.mark.parametrize("name", PICTURES)
@pytest.mark.parametrize("medium", ["video", "image"])
def test_pixels_are_the_original_codes_rounded(medium, name):
    seed, size = PICTURES[name]
    frame = picture(seed, (*size, 3))
    if medium == "video":
        pixels = Clip.load(np.stack([frame] * 8), size=224, conventions=ORIGINAL).frames[0]
    else:
        pixels = load_image(frame, size=224, conventions=ORIGINAL)
    expected = 255 * (arrays()[f"{medium}_pixels_{name}"].transpose(1, 2, 0) * STD + MEAN)
    assert abs(pixels[::16, ::16] - expected).max() < 0.501


def test_processes_do_the_same(tmp_path):
    for index, frame in enumerate(picture(2, (9, 90, 120, 3))):
        Image.fromarray(frame).save(tmp_path / f"{index}.png")
    path = tmp_path / "0.png"
    Image.fromarray(picture(2, (9, 90, 120, 3))[0]).save(
        tmp_path / "all.webp",
        save_all=True,
        append_images=[Image.fromarray(frame) for frame in picture(2, (9, 90, 120, 3))[1:]],
        lossless=True,
    )
    with DecoderProcesses(1) as decoders:
        image = load_image(path, size=56, conventions=ORIGINAL, decoders=decoders)
        clip = Clip.load(tmp_path / "all.webp", size=56, conventions=ORIGINAL, decoders=decoders)
    assert np.array_equal(image, load_image(path, size=56, conventions=ORIGINAL))
    here = Clip.load(tmp_path / "all.webp", size=56, conventions=ORIGINAL)
    assert np.array_equal(clip.frames, here.frames)
    assert clip.info.indices == here.info.indices == (0, 1, 2, 3, 4, 5, 6, 8)


def test_a_window_is_sampled_the_same_way():
    clip = Clip.load(picture(3, (9, 20, 20, 3)), size=20, conventions=ORIGINAL, frame_indices=range(8))
    assert clip.info.indices == tuple(range(8))


def test_a_system_text_is_no_question():
    assert build_prompt("Why?", system="Be brief.") == "Be brief. USER: Why? ASSISTANT:"


@pytest.fixture
def longer():
    """A model that sees sixteen frames."""
    limits = ModelLimits(image_size=56, num_frames=16, tokens_per_frame=17, tokens_per_image=16, max_model_len=4096)
    with FakeServer(limits=limits) as server:
        yield server


@pytest.mark.parametrize("isolated", [False, True])
def test_as_many_frames_as_the_model_sees_are_sent(longer, bikes, isolated):
    with VideoLlava(longer.url, isolated=isolated) as client:
        clip = client.load(bikes)
        client.ask("What?", video=bikes)
        client.ask("What?", video=picture(0, (40, 90, 120, 3)))
        client.chat(video=[clip, clip]).ask("What?")
        client.probe(media=True)
    assert clip.info.num_frames is not None
    assert clip.info.indices == tuple(index * clip.info.num_frames // 16 for index in range(16))
    assert np.array_equal(longer.requests[0].video_frames, clip.frames)
    assert [len(request.video_frames) for request in longer.requests] == [16, 16, 32, 16]
    assert [request.num_media for request in longer.requests] == [(1, 0), (1, 0), (2, 0), (1, 0)]


def test_frames_by_name_are_as_many_as_the_model_sees(longer):
    frames = picture(0, (40, 90, 120, 3))
    with VideoLlava(longer.url) as client:
        assert client.load(frames, frame_indices=range(16)).info.indices == tuple(range(16))
        with pytest.raises(OptionError, match="frame_indices must be 16 numbers, the model's frames, got 8: "):
            client.ask("What?", video=frames, frame_indices=range(8))
        with pytest.raises(MediaError, match="frames: has 8 frames, the model sees 16: load the video again"):
            client.ask("What?", video=Clip.load(frames, size=56))
    assert not longer.requests
