"""The gateway does what the server's model wants of its clients."""

import io
from collections.abc import Iterator

import numpy as np
import pytest
from deploy.gateway.helpers import ask, data_url, text_part
from PIL import Image
from support.original_code import picture
from video_llava_client import Clip, Conventions, ModelLimits, load_image
from video_llava_client.testing import FakeServer

ORIGINAL = Conventions(
    sampling="linspace", video_resize="bilinear", image_resize="bicubic", image_padding=(9, 8, 7), system="A chat."
)
LIMITS = ModelLimits(
    image_size=56, num_frames=8, tokens_per_frame=17, tokens_per_image=16, max_model_len=4096, conventions=ORIGINAL
)
FRAMES = picture(0, (10, 90, 120, 3))


@pytest.fixture
def server() -> Iterator[FakeServer]:
    with FakeServer(limits=LIMITS) as running:
        yield running


def png(frame):
    file = io.BytesIO()
    Image.fromarray(frame).save(file, "PNG")
    return file.getvalue()


def image_part(frame):
    return {"type": "image_url", "image_url": {"url": data_url(png(frame), "image/png")}}


def test_images_and_the_system_text(server, gateway):
    assert gateway.post(ask(image_part(FRAMES[0]), text_part("What?"))).status_code == 200
    request = server.requests[-1]
    assert request.prompt == "A chat. USER: <image>\nWhat? ASSISTANT:"
    assert np.array_equal(request.image_frames[0], load_image(FRAMES[0], size=56, conventions=ORIGINAL))


def test_a_callers_own_system_text_comes_instead(server, gateway):
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "What?"}]
    assert gateway.post({"messages": messages}).status_code == 200
    assert server.requests[-1].prompt == "Be brief. USER: What? ASSISTANT:"


@pytest.mark.parametrize("way", ["images_as_video", "video/jpeg"])
def test_frames_sent_one_by_one_are_a_videos(server, gateway, way):
    if way == "video/jpeg":
        joined = ",".join(data_url(png(frame)).partition(",")[2] for frame in FRAMES)
        part = {"type": "video_url", "video_url": {"url": f"data:video/jpeg;base64,{joined}"}}
        body = ask(part, text_part("What?"))
    else:
        options = {"mm_processor_kwargs": {"images_as_video": True}}
        body = ask(*map(image_part, FRAMES), text_part("What?"), **options)
    assert gateway.post(body).status_code == 200
    assert np.array_equal(server.requests[-1].video_frames, Clip.load(FRAMES, size=56, conventions=ORIGINAL).frames)
