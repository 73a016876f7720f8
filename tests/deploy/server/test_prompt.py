from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from video_llava_server.errors import InvalidArgument
from video_llava_server.features import Features, FeatureStore
from video_llava_server.prompt import PromptBuilder

HIDDEN = 4
TABLE = torch.arange(6 * HIDDEN, dtype=torch.float32).reshape(6, HIDDEN)


@pytest.fixture(scope="module")
def builder(make_model, tmp_path_factory):
    facts = {"tokens_per_frame": 3, "tokens_per_image": 2, "hidden_size": HIDDEN}
    folder = make_model(tmp_path_factory.mktemp("models") / "words", **facts)
    save_file({"model.embed_tokens.weight": TABLE}, folder / "language_model" / "model.safetensors")
    return PromptBuilder(folder, dtype=torch.float32, max_model_len=16)


def features(rows: int, start: float = 100.0) -> np.ndarray:
    return np.arange(start, start + rows * HIDDEN, dtype=np.float32).reshape(rows, HIDDEN)


def build(builder, text, *, videos=None, images=None):
    store = FeatureStore(0)
    opened = (None if each is None else Features.open(store.put(each)) for each in (videos, images))
    return builder.build(text, **dict(zip(("video_features", "image_features"), opened, strict=True)))


def test_text_alone_is_rows_of_the_embedding_table(builder):
    prompt = build(builder, "USER: What? ASSISTANT:")
    assert prompt.token_ids == [1, 2, 3]
    assert torch.equal(prompt.embeddings[:], TABLE[[1, 2, 3]])


def test_features_stand_in_place_of_their_placeholders(builder):
    videos, images = features(6), features(4, 500.0)
    prompt = build(builder, "USER: <image> <video> What? <image>", videos=videos, images=images)
    assert prompt.token_ids == [1, 4, 4, 5, 5, 5, 5, 5, 5, 2, 4, 4]
    expected = np.concatenate([TABLE[[1]], images[:2], videos, TABLE[[2]], images[2:]])
    assert np.array_equal(prompt.embeddings[:].numpy(), expected)


def test_embeddings_come_in_the_engines_dtype(builder, monkeypatch):
    monkeypatch.setattr(builder, "_dtype", torch.bfloat16)
    embeddings = build(builder, "<video>", videos=features(6)).embeddings
    assert embeddings.dtype == embeddings[:].dtype == torch.bfloat16


def test_features_past_the_engines_dtype_are_refused(builder, monkeypatch):
    large = np.full((6, HIDDEN), 7e4, np.float32)
    assert torch.isfinite(build(builder, "<video>", videos=large).embeddings[:]).all()
    monkeypatch.setattr(builder, "_dtype", torch.float16)
    with pytest.raises(InvalidArgument, match=r"video_features holds values that are not finite in torch\.float16"):
        build(builder, "<video>", videos=large)


@pytest.mark.parametrize(
    ("text", "videos", "message"),
    [
        (" ", None, "INVALID_ARGUMENT: text_input is empty"),
        ("What? " * 30, None, "has 180 characters, in the context of 16 tokens fit at most 160: shorten the text"),
        ("<video>", None, r"has 1 <video> placeholder\(s\) and video_features is \[0, 4\], expected \[6, 4\]"),
        ("<video>", features(5), r"video_features is \[5, 4\], expected \[6, 4\]: 6 rows for each placeholder"),
        ("What?", features(6), r"has 0 <video> placeholder\(s\) and video_features is \[6, 4\], expected \[0, 4\]"),
        ("<video>", np.full((6, HIDDEN), np.nan, np.float32), "video_features holds values that are not finite"),
        ("<video>", np.full((6, HIDDEN), -np.inf, np.float32), "video_features holds values that are not finite"),
        ("<video> <video> What? What? What? What?", features(12), r"takes 16 positions \(4 of text, 12 of media\)"),
    ],
)
def test_refusals_name_the_values(builder, text, videos, message):
    with pytest.raises(InvalidArgument, match=message):
        build(builder, text, videos=videos)


def test_placeholders_beyond_the_vocabulary_are_no_ids_for_the_engine(builder, monkeypatch):
    """Original checkpoints have no rows for them."""
    monkeypatch.setattr(builder, "_manifest", replace(builder._manifest, vocab_size=4))
    prompt = build(builder, "USER: <image> What?", images=features(2))
    assert prompt.token_ids == [1, 0, 0, 2]
    assert np.array_equal(prompt.embeddings[1:3].numpy(), features(2))
