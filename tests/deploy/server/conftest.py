import importlib
import importlib.util
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support import fake_triton, without_engine
from support.model_folder import write_model_folder
from tokenizers import Tokenizer, models, pre_tokenizers

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
        tokenizer = Tokenizer(models.WordLevel({word: number for number, word in enumerate(WORDS)}, unk_token="[UNK]"))
        tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()  # pyright: ignore[reportAttributeAccessIssue]
        write_model_folder(folder, tokenizer, **facts)
        return folder

    return make
