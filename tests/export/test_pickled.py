import os
import subprocess
import sys

import pytest
import torch
from video_llava_export.errors import CheckpointError
from video_llava_export.tensors import Tensors

ONE, OTHER = "language_model.model.norm.weight", "video_tower.pre_layrnorm.bias"


class Malicious:
    def __reduce__(self):
        return os.mkdir, ("run-by-a-pickle",)


def test_tensors_are_read_bit_for_bit(tmp_path):
    state = {
        "model.norm.weight": torch.randn(5).to(torch.bfloat16),
        "model.video_tower.video_tower.pre_layrnorm.bias": torch.randn(4, 6).T,  # not contiguous
    }
    torch.save(state, tmp_path / "pytorch_model.bin")
    tensors = Tensors(tmp_path)
    assert {name: (tensors[name].shape, tensors[name].dtype) for name in tensors} == {
        ONE: ((5,), "BF16"),
        OTHER: ((6, 4), "F32"),
    }
    assert torch.equal(tensors[ONE].read(), state["model.norm.weight"])
    assert torch.equal(tensors[OTHER].read(), state["model.video_tower.video_tower.pre_layrnorm.bias"])
    assert tensors[OTHER].read().is_contiguous()


def test_no_code_of_a_pickle_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"model.norm.weight": torch.zeros(1), "trap": Malicious()}, tmp_path / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match=r"pytorch_model\.bin holds more than tensors \(.*save the weights as"):
        Tensors(tmp_path)
    assert not (tmp_path / "run-by-a-pickle").exists()


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([torch.zeros(1)], "holds a list, not tensors by name"),
        ({"epoch": 3}, "has 'epoch' of int; supported are tensors of F64"),
        ({"model.norm.weight": torch.zeros(1, dtype=torch.complex64)}, r"of torch\.complex64; supported"),
    ],
    ids=["list", "number", "complex"],
)
def test_what_is_no_tensor_is_named(tmp_path, value, message):
    torch.save(value, tmp_path / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match=message):
        Tensors(tmp_path)


@pytest.mark.parametrize("content", [b"", b"\0" * 100, b"<html>not found</html>"])
def test_a_damaged_file_is_named(tmp_path, content):
    (tmp_path / "pytorch_model.bin").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"pytorch_model\.bin (is damaged|holds more than tensors)"):
        Tensors(tmp_path)


def test_a_file_that_is_cut_off_is_named(tmp_path):
    path = tmp_path / "pytorch_model.bin"
    torch.save({"model.norm.weight": torch.zeros(10_000)}, path)
    path.write_bytes(path.read_bytes()[:20_000])
    with pytest.raises(CheckpointError, match="is damaged"):
        Tensors(tmp_path)


def test_the_format_from_before_torch_1_6_is_refused(tmp_path):
    torch.save(
        {"model.norm.weight": torch.zeros(1)}, tmp_path / "pytorch_model.bin", _use_new_zipfile_serialization=False
    )
    with pytest.raises(CheckpointError, match=r"in torch's format from before 1\.6"):
        Tensors(tmp_path)


def test_safetensors_come_first(editable):
    torch.save({}, editable.folder / "pytorch_model.bin")
    assert ONE in editable.open().tensors


def test_memory_is_that_of_one_tensor(tmp_path):
    """Sixteen of 16 MB, in a process of its own. Pages of the mapped file do not count: the kernel takes them back."""
    torch.save({f"model.layers.{n}.w": torch.zeros(4_000_000) for n in range(16)}, tmp_path / "pytorch_model.bin")
    code = f"""
import re
from pathlib import Path
from video_llava_export.tensors import Tensors

def anonymous_bytes():
    return 1024 * int(re.search(r"RssAnon:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])

tensors = Tensors(Path({str(tmp_path)!r}))
before = anonymous_bytes()
print(max(tensors[name].read().numel() and anonymous_bytes() - before for name in tensors))
"""
    done = subprocess.run([sys.executable, "-c", code], check=True, timeout=120, capture_output=True, text=True)
    assert int(done.stdout) < 70_000_000
