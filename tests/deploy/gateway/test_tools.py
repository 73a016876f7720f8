"""Requests in the form in which benchmarks and evaluation tools send them."""

import io
import json

import av
import httpx
import numpy as np
import pytest
from deploy.gateway.helpers import BIKES, ask, data_url, text_part
from PIL import Image

PIXELS = [np.full((48, 64, 3), 20 * number, np.uint8) for number in range(10)]


def webm():
    file = io.BytesIO()
    with av.open(file, "w", format="webm") as container:
        stream = container.add_stream("libvpx-vp9", rate=8)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for pixels in PIXELS:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels)))
        container.mux(stream.encode(None))
    return file.getvalue()


def image_part(pixels, form):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, form)
    return {"type": "image_url", "image_url": {"url": data_url(file.getvalue(), f"image/{form.lower()}")}}


def video_part(content, kind):
    return {"type": "video_url", "video_url": {"url": data_url(content, kind)}}


def usage(*, continuous=True):
    return {"stream_options": {"include_usage": True} | ({"continuous_usage_stats": True} if continuous else {})}


REQUESTS = {
    "aiperf images": ask(
        text_part("a b"),
        image_part(PIXELS[0], "JPEG"),
        image_part(PIXELS[1], "JPEG"),
        max_completion_tokens=3,
        **usage(continuous=False),
    ),
    "aiperf video": ask(text_part("a b"), video_part(webm(), "video/webm"), max_completion_tokens=3, **usage()),
    "guidellm video": ask(
        text_part("a b"),
        video_part(BIKES.read_bytes(), "video/mp4"),
        max_completion_tokens=3,
        ignore_eos=True,
        **usage(),
    ),
    "inference-perf video": ask(
        text_part("a"),
        video_part(BIKES.read_bytes(), "video/mp4"),
        text_part("b"),
        max_tokens=3,
        ignore_eos=True,
        **usage(continuous=False),
    ),
}


@pytest.mark.parametrize("name", REQUESTS)
def test_a_benchmark_gets_its_stream_with_usage(gateway, server, name):
    body = REQUESTS[name] | {"model": "video_llava", "stream": True}
    response = gateway.post(body)
    assert response.status_code == 200, response.text
    *events, done = [line.removeprefix("data: ") for line in response.text.split("\n\n") if line]
    *answered, last = map(json.loads, events)
    assert done == "[DONE]"
    assert "".join(each["choices"][0]["delta"]["content"] for each in answered) == "This is a"
    assert answered[-1]["choices"][0]["finish_reason"] == "length"
    assert last["usage"]["completion_tokens"] == 3
    counts = [each["usage"]["completion_tokens"] if "usage" in each else None for each in answered]
    assert counts == ([0, 1, 2, 3] if "continuous_usage_stats" in body["stream_options"] else [None] * 4)
    (request,) = server.requests
    media = "<image>\n<image>\n" if "images" in name else "<video>\n"
    text = "a\nb" if "inference-perf" in name else "a b"
    assert request.prompt == f"USER: {media}{text} ASSISTANT:"
    assert request.sampling.get("ignore_eos") == body.get("ignore_eos")


def test_the_addresses_that_benchmarks_ask_first(gateway):
    """guidellm asks for health and models; AIPerf and saturate read the metrics."""
    assert httpx.get(f"{gateway.url}/health").status_code == 200
    assert httpx.get(f"{gateway.url}/v1/models").json()["data"][0]["id"] == "video_llava"
    assert "# TYPE" in httpx.get(f"{gateway.url}/metrics").text


def test_ten_frames_of_lmms_eval_are_one_video(start, server):
    """Its OpenAI model sends the frames of a video as PNG pictures, text last, and takes no other fields."""
    parts = [image_part(pixels, "PNG") for pixels in PIXELS]
    start(images_as_video=True).post(ask(*parts, text_part("What happens?"), max_tokens=16, temperature=0))
    (request,) = server.requests
    assert request.prompt == "USER: <video>\nWhat happens? ASSISTANT:"
    shown = [PIXELS[index][0, 0, 0] for index in (0, 1, 2, 3, 5, 6, 7, 8)]
    assert request.video_frames.reshape(8, -1).mean(axis=1) == pytest.approx(shown, abs=1)


def test_lmms_eval_and_a_number_of_frames(gateway):
    """With `pass_video_url=True` it also sends how many frames the server shall sample: the model sees eight."""
    body = ask(video_part(BIKES.read_bytes(), "video/mp4"), text_part("What happens?"))
    assert gateway.post(body | {"media_io_kwargs": {"video": {"num_frames": 8}}}).status_code == 200
    refused = gateway.post(body | {"media_io_kwargs": {"video": {"num_frames": 10}}})
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "media_io_kwargs")
