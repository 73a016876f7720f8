"""What a line of the request log says of the answer and of the parameters, with texts and without."""

import hashlib
import json
from types import SimpleNamespace

import numpy as np
import pytest
from video_llava_client.metadata import media_digest
from video_llava_client.tensors import INPUTS_BY_NAME, encode
from video_llava_server.log_file import VARIABLE
from video_llava_server.manifest import Manifest
from video_llava_server.request_log import Entry, RequestLog
from video_llava_server.tensors import FRAMES


def digest(value):
    return {"sha256": hashlib.sha256(json.dumps(value).encode()).hexdigest()}


def line(*, with_texts, sampling=()):
    """Of two sequences that came in pieces."""
    entry = Entry({"id": "mine"}, with_texts=with_texts)
    entry.sampling(dict(sampling))
    for index, text, reason in ((0, "It ", None), (1, "A ", None), (0, "is.", "stop"), (1, "cat", "length")):
        entry.add([SimpleNamespace(index=index, text=text, token_ids=[1, 2], finish_reason=reason)])
    return entry.line(None)


def test_an_answer_is_counted_and_kept_where_texts_are():
    without, full = line(with_texts=False), line(with_texts=True)
    counted = [{"num_tokens": 4, "finish_reason": "stop"}, {"num_tokens": 4, "finish_reason": "length"}]
    assert without["answers"] == counted
    assert full["answers"] == [counted[0] | {"text": "It is."}, counted[1] | {"text": "A cat"}]
    assert without["outcome"] == full["outcome"] == "answered"


def test_parameters_that_hold_text_are_digests_without_texts():
    numbers = {"temperature": 0.5, "seed": 7, "ignore_eos": True, "top_p": None}
    texts = {"stop": ["Anna"], "structured_outputs": {"choice": ["yes", "no"]}, "max_tokens": "5"}
    assert line(with_texts=True, sampling=numbers | texts)["sampling"] == numbers | texts
    hidden = {name: digest(value) for name, value in texts.items()}
    assert line(with_texts=False, sampling=numbers | texts)["sampling"] == numbers | hidden
    long = {"stop": ["x" * 70_000]}
    assert line(with_texts=True, sampling=long)["sampling"] == {"stop": digest(long["stop"])}


@pytest.mark.parametrize("shapes", [(8, 0), (0, 1), (16, 2)])
def test_the_digest_of_media_is_the_clients(make_model, tmp_path, shapes):
    log = RequestLog("intake", Manifest.read(make_model(tmp_path / "model")), {VARIABLE: str(tmp_path)})
    draw = np.random.default_rng(1)
    frames = [draw.integers(0, 256, (number, 28, 28, 3), np.uint8) for number in shapes]
    sent = [encode(INPUTS_BY_NAME[name], array) for name, array in zip(FRAMES, frames, strict=True) if len(array)]
    assert log.media_digest(frames).hex() == media_digest(sent)
    log.close()


def test_it_is_off_by_default(make_model, tmp_path):
    log = RequestLog("vicuna", Manifest.read(make_model(tmp_path / "model")), {})
    assert log.begin(None, {}) is None
    assert log.media_digest([]) == b""
    log.end(None, None)
    log.close()
    assert log.num_dropped == 0
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


@pytest.mark.parametrize("setting", ["{path}/file/log", "{path},txts"])
def test_a_start_with_a_folder_that_cannot_be_ends_with_the_reason(make_model, tmp_path, setting):
    (tmp_path / "file").touch()
    manifest = Manifest.read(make_model(tmp_path / "model"))
    with pytest.raises((OSError, ValueError), match=r"Not a directory|the request log is"):
        RequestLog("vicuna", manifest, {VARIABLE: setting.format(path=tmp_path)})
