"""/v1/frames: what the model sees of a medium."""

import base64
import io

import httpx
import numpy as np
import pytest
from deploy.gateway.helpers import BIKES, ask, data_url, text_part, video_part
from PIL import Image
from video_llava_client import Clip
from video_llava_gateway.keys import new_key


def frames_of(gateway, part, **options):
    return httpx.post(f"{gateway.url}/v1/frames", json=part, timeout=30, **options)


def pixels_of(frame):
    assert frame["url"].startswith("data:image/jpeg;base64,")
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(frame["url"].partition(",")[2]))), np.int16)


@pytest.mark.parametrize("window", [{}, {"start_seconds": 1.0, "end_seconds": 2.0}])
def test_frames_of_a_video_and_a_question_that_finds_them(gateway, server, window):
    body = video_part(BIKES.read_bytes(), uuid="bikes", mm_processor_kwargs=window)
    answer = frames_of(gateway, body).json()
    clip = Clip.load(BIKES, size=56, **window)
    assert (answer["kind"], answer["num_frames"], answer["duration_seconds"]) == ("video", 250, 10.0)
    assert answer["warnings"] == []
    assert [frame["index"] for frame in answer["frames"]] == list(clip.info.indices)
    assert [frame["seconds"] for frame in answer["frames"]] == list(clip.info.pts_seconds)
    shown = np.stack([pixels_of(frame) for frame in answer["frames"]])
    assert np.abs(shown - clip.frames).mean() < 4  # JPEG
    known = {"type": "video_url", "video_url": None, "uuid": "bikes"}
    assert gateway.post(ask(known, text_part("What?"), mm_processor_kwargs=window)).status_code == 200
    assert (server.requests[0].video_frames == clip.frames).all()
    assert gateway.metric("media_decode_seconds_count") == 1


def test_an_image_is_one_frame(gateway):
    file = io.BytesIO()
    Image.new("RGB", (64, 56), (200, 30, 60)).save(file, "PNG")
    answer = frames_of(gateway, {"type": "image_url", "image_url": {"url": data_url(file.getvalue())}}).json()
    (frame,) = answer["frames"]
    assert (answer["kind"], frame["index"], frame["seconds"]) == ("image", None, None)
    assert np.abs(pixels_of(frame) - (200, 30, 60)).max() < 8


@pytest.mark.parametrize(
    ("part", "param", "code"),
    [
        ({"type": "text", "text": "Hi"}, "type", None),
        ({"type": "video_url", "uuid": "gone"}, "video_url", "unknown_uuid"),
        ({"type": "video_url", "video_url": {"url": data_url(b"no video")}}, "video_url", "invalid_media"),
        (video_part(BIKES.read_bytes(), mm_processor_kwargs={"start_seconds": 3, "end_seconds": 2}), "video_url", None),
        (video_part(b"", mm_processor_kwargs={"fps": 1}), "mm_processor_kwargs.fps", None),
    ],
)
def test_what_cannot_be_used_is_named(gateway, part, param, code):
    response = frames_of(gateway, part)
    error = response.json()["error"]
    assert (response.status_code, error["param"], error["code"]) == (400, param, code)


def test_keys_and_their_limits_count(start, tmp_path):
    key, sha256 = new_key()
    (tmp_path / "keys.toml").write_text(f'joe = {{ sha256 = "{sha256}", max_body_bytes = 1000 }}')
    gateway = start(keys=tmp_path / "keys.toml")
    part = video_part(BIKES.read_bytes())
    assert frames_of(gateway, part).status_code == 401
    assert frames_of(gateway, part, headers={"authorization": f"Bearer {key}"}).status_code == 413
