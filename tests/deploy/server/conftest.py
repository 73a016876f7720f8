import importlib
import importlib.util
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support import fake_triton, without_engine
from tokenizers import Tokenizer, models, pre_tokenizers
from video_llava_server.manifest import Manifest

TRITON = fake_triton.install()
if importlib.util.find_spec("vllm") is None:  # test_other_pythons.py
    without_engine.install()
with warnings.catch_warnings(action="ignore"):  # what torch and vLLM say of themselves
    importlib.import_module("video_llava_server.vicuna")
WORDS = ["[UNK]", "USER:", "What?", "ASSISTANT:", "<image>", "<video>"]


@pytest.fixture
def triton() -> Any:
    """The module that stands in for Triton's."""
    return TRITON


@pytest.fixture
def metrics() -> list[fake_triton.FakeMetric]:
    """Every metric that the test makes."""
    fake_triton.FakeMetricFamily.made.clear()
    return fake_triton.FakeMetricFamily.made


@pytest.fixture(scope="session")
def make_model() -> Callable[..., Path]:
    """Return `make_model(folder, **facts)`: writes a model folder without weights, whose tokenizer knows WORDS."""

    def make(folder: Path, **facts: Any) -> Path:
        (folder / "language_model").mkdir(parents=True)
        tokenizer = Tokenizer(models.WordLevel({word: number for number, word in enumerate(WORDS)}, unk_token="[UNK]"))
        tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()  # pyright: ignore[reportAttributeAccessIssue]
        tokenizer.save(str(folder / "language_model" / "tokenizer.json"))
        defaults: dict[str, Any] = {
            "id": folder.name,
            "created_by": "a test",
            "source": "nowhere",
            "revision": None,
            "image_size": 28,
            "num_frames": 2,
            "tokens_per_frame": 5,
            "tokens_per_image": 4,
            "hidden_size": 4,
            "vocab_size": len(WORDS),
            "max_position_embeddings": 25,
            "image_token": "<image>",
            "image_token_id": 4,
            "video_token": "<video>",
            "video_token_id": 5,
            "dtypes": {},
            "quantization": None,
            "profile": None,
            "engine_arguments": {},
            "files": {},
        }
        Manifest(**(defaults | facts)).write(folder)
        return folder

    return make
