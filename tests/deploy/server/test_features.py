"""Features lie in shared memory until newer ones take their place; who has opened them keeps them."""

import gc
import os
from collections.abc import Callable
from pathlib import Path
from socket import socket as Socket

import numpy as np
import pytest
from support.fake_triton import FakeRequest
from video_llava_server import feature_store
from video_llava_server.errors import InvalidArgument, Unavailable
from video_llava_server.features import MEGABYTES_VARIABLE, Features, FeatureStore, Reference
from video_llava_server.known_frames import KnownFrames
from video_llava_server.runtime_folder import VARIABLE, RuntimeFolder, Window
from video_llava_server.tensors import strings
from video_llava_server.tickets import NEW_FRAMES, NO_FRAMES, SEEN_FRAMES

KEY = bytes(32)
# As many as stay whatever they take.
FEW = 16


def features(value: float, *, dtype: type = np.float16) -> np.ndarray:
    return np.full((64, 1024), value, dtype)


def num_open_files() -> int:
    gc.collect()
    return len(list(Path("/proc/self/fd").iterdir()))


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_what_is_put_in_is_what_is_read(dtype):
    values = np.random.default_rng(0).standard_normal((100, 70)).astype(dtype)
    store = FeatureStore(1 << 20)
    reference = Reference.unseal("video_features", store.put(values).seal(KEY), KEY)
    assert reference is not None
    assert reference.largest == np.abs(values).max()
    opened = Features.open(reference)
    assert np.array_equal(opened.array, values)
    assert Features.open(opened.here).array.dtype == dtype


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_a_value_that_is_not_finite_is_told(value, dtype):
    values = features(1, dtype=dtype)
    values[63, 1023] = value
    assert not np.isfinite(FeatureStore(1 << 20).put(values).largest)


def test_the_oldest_go_first_and_no_file_stays_open():
    before = num_open_files()
    store = FeatureStore(20 * features(0).nbytes)
    references = [store.put(features(number)) for number in range(30)]
    assert store.window == Window(13, 30)
    assert store.num_bytes == 20 * features(0).nbytes
    kept = Features.open(references[10])
    store.put(features(30))
    for gone in (references[0], references[10]):
        with pytest.raises(Unavailable, match="were dropped meanwhile: try again, reason=dropped"):
            Features.open(gone)
    assert np.array_equal(kept.array, features(10))
    del store, kept
    assert num_open_files() == before


def test_the_last_ones_stay_however_large():
    store = FeatureStore(0)
    references = [store.put(features(number)) for number in range(2 * FEW)]
    assert [Features.open(each).array[0, 0] for each in references[FEW:]] == list(range(FEW, 2 * FEW))
    assert store.window == Window(2 * FEW - 14, 2 * FEW)


def test_another_file_under_the_same_number_is_not_taken_for_it(tmp_path):
    store = FeatureStore(1 << 20)
    reference = store.put(features(1))
    other, socket = (tmp_path / "other").open("w+b"), Socket()
    (reading, writing) = os.pipe()
    for number in (other.fileno(), socket.fileno(), reading):
        with pytest.raises(Unavailable, match="reason=dropped"):
            Features.open(reference._replace(file=number))
    for file in (reading, writing):
        os.close(file)
    socket.close()
    other.close()


@pytest.mark.parametrize("text", ["zz", "00", "00" * 77, "é"])
def test_a_reference_that_was_not_made_here_is_refused(text):
    with pytest.raises(InvalidArgument, match="video_features is no reference of this server's: take it from"):
        Reference.unseal("video_features", text, KEY)
    sealed = FeatureStore(0).put(features(1)).seal(b"another key".ljust(32))
    with pytest.raises(InvalidArgument, match="video_features is no reference"):
        Reference.unseal("video_features", sealed, KEY)


@pytest.fixture
def respond(triton, monkeypatch, tmp_path) -> Callable[[np.ndarray], str]:
    """Return what the model answers for features."""
    del triton
    monkeypatch.setenv(VARIABLE, str(tmp_path))
    monkeypatch.setenv(MEGABYTES_VARIABLE, "1")
    RuntimeFolder(tmp_path).make_key()
    model = feature_store.TritonPythonModel()
    model.initialize({"model_name": "feature_store", "model_version": "1"})

    def ask(values: np.ndarray) -> str:
        (response,) = model.execute([FakeRequest({"features": values, "nonce": strings(["a"])})])
        return response.tensors["reference"].item().decode()

    return ask


def test_the_model_stores_features_and_says_what_it_has(respond, tmp_path):
    folder = RuntimeFolder(tmp_path)
    assert respond(np.zeros((1, 1024), np.float16)) == ""
    assert folder.read_window() == Window(0, 0)
    reference = Reference.unseal("video_features", respond(features(3)), folder.read_key())
    assert reference is not None
    assert np.array_equal(Features.open(reference).array, features(3))
    assert folder.read_window() == Window(0, 1)


# Which nonce goes with frames


def frames(value: int, count: int = 1) -> np.ndarray:
    return np.full((count, 8, 8, 3), value, np.uint8)


def test_frames_have_the_same_nonce_while_their_features_are_kept():
    known = KnownFrames()
    assert known.look(0, frames(1, 0), Window(0, 0)) == (NO_FRAMES, "")
    state, nonce = known.look(0, frames(1), Window(0, 0))
    assert state == NEW_FRAMES
    # On their way, there, and the first of many that stay.
    for window in (Window(0, 0), Window(0, 1), Window(0, 70)):
        assert known.look(0, frames(1), window) == (SEEN_FRAMES, nonce)
    others = [known.look(0, frames(2), Window(0, 1)), known.look(1, frames(1), Window(0, 1))]
    assert [state for state, _ in others] == [NEW_FRAMES, NEW_FRAMES]
    assert len({nonce, *(other for _, other in others)}) == 3


def test_frames_have_a_new_nonce_when_their_features_are_gone_or_nearly():
    known = KnownFrames()
    _, nonce = known.look(0, frames(1), Window(0, 0))
    state, second = known.look(0, frames(1), Window(1, 71))
    assert (state, second != nonce) == (NEW_FRAMES, True)
    assert known.look(0, frames(1), Window(71, 80)) == (SEEN_FRAMES, second)


def test_few_frames_are_remembered(monkeypatch):
    monkeypatch.setattr("video_llava_server.known_frames._NUM_REMEMBERED", 2)
    known = KnownFrames()
    states = [known.look(0, frames(value), Window(0, 0))[0] for value in (1, 2, 1, 3, 1, 2)]
    assert states == [NEW_FRAMES, NEW_FRAMES, SEEN_FRAMES, NEW_FRAMES, SEEN_FRAMES, NEW_FRAMES]
