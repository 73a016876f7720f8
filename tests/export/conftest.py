"""A small random checkpoint, a copy of it that a test may spoil, and one finished export."""

import json
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers.utils import logging
from video_llava_export import cli, exporter
from video_llava_export.checkpoint import Checkpoint, open_checkpoint
from video_llava_export.comparison import Difference
from video_llava_export.exporter import Exported, export
from video_llava_export.progress import Progress
from video_llava_export.random_checkpoint import make_checkpoint


@dataclass(frozen=True)
class EditableCheckpoint:
    """A checkpoint folder of the test's own."""

    folder: Path

    def open(self) -> Checkpoint:
        return open_checkpoint(str(self.folder))

    def edit(self, name: str, **values: Any) -> None:
        """Set values of a JSON file; None removes one."""
        path = self.folder / name
        merged = json.loads(path.read_text(encoding="utf-8")) | values
        kept = {key: value for key, value in merged.items() if value is not None}
        path.write_text(json.dumps(kept), encoding="utf-8")

    def edit_part(self, part: str, **values: Any) -> None:
        """Set values of text_config or vision_config."""
        config = json.loads((self.folder / "config.json").read_text(encoding="utf-8"))
        self.edit("config.json", **{part: config[part] | values})

    def remove(self, *names: str) -> None:
        for name in names:
            (self.folder / name).unlink()

    def tensors(self) -> dict[str, torch.Tensor]:
        return load_file(self.folder / "model.safetensors")

    def replace_tensors(self, tensors: dict[str, torch.Tensor], *, num_shards: int = 1) -> None:
        """Write other tensors, as one file or as shards with an index."""
        self.remove("model.safetensors")
        if num_shards == 1:
            save_file(tensors, self.folder / "model.safetensors", metadata={"format": "pt"})
            return
        weight_map = {}
        for index in range(num_shards):
            name = f"model-{index + 1:05}-of-{num_shards:05}.safetensors"
            shard = {key: tensors[key] for key in sorted(tensors)[index::num_shards]}
            save_file(shard, self.folder / name, metadata={"format": "pt"})
            weight_map |= dict.fromkeys(shard, name)
        index_path = self.folder / "model.safetensors.index.json"
        index_path.write_text(json.dumps({"metadata": {}, "weight_map": weight_map}), encoding="utf-8")

    def rename_tensors(self, rules: dict[str, str], *, num_shards: int = 1) -> None:
        """Rename by regular expressions, one after the other."""
        tensors = self.tensors()
        for pattern, replacement in rules.items():
            tensors = {re.sub(pattern, replacement, name): tensor for name, tensor in tensors.items()}
        self.replace_tensors(tensors, num_shards=num_shards)


@pytest.fixture(scope="session", autouse=True)
def quiet_transformers():
    logging.set_verbosity_error()
    logging.disable_progress_bar()


@pytest.fixture(scope="session")
def small_checkpoint(tmp_path_factory) -> Path:
    """Made once, to be read only."""
    folder = tmp_path_factory.mktemp("checkpoint")
    make_checkpoint(folder)
    return folder


@pytest.fixture
def editable(small_checkpoint, tmp_path) -> EditableCheckpoint:
    return EditableCheckpoint(Path(shutil.copytree(small_checkpoint, tmp_path / "checkpoint")))


@pytest.fixture(scope="session")
def clip_path() -> Path:
    return Path(__file__).parents[1] / "media" / "bikes.mp4"


@pytest.fixture(scope="session")
def read_files():
    """Every file below a folder, {relative path: bytes}."""

    def read(folder: Path) -> dict[str, bytes]:
        paths = sorted(path for path in folder.rglob("*") if path.is_file())
        return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}

    return read


@pytest.fixture(scope="session")
def progress_lines() -> list[str]:
    """What the export of `exported` told."""
    return []


@pytest.fixture(scope="session")
def exported(small_checkpoint, tmp_path_factory, progress_lines) -> Exported:
    """Exported once, to be read only."""
    opened = open_checkpoint(str(small_checkpoint))
    return export(opened, tmp_path_factory.mktemp("exported"), progress=Progress(progress_lines.append))


@pytest.fixture
def model(exported, tmp_path) -> Path:
    """A copy of the finished export that a test may spoil."""
    return Path(shutil.copytree(exported.folder, tmp_path / "model"))


@pytest.fixture
def fast_graphs(monkeypatch):
    """Graphs that are only files, where a test is about something else."""

    def write(_encoder: object, path: Path, **_: object) -> int:
        path.parent.mkdir(parents=True, exist_ok=True)
        return path.write_bytes(b"graph")

    monkeypatch.setattr(exporter, "write_graph", write)
    monkeypatch.setattr(exporter, "share_weights", lambda *_: None)
    monkeypatch.setattr(exporter._Export, "_verify_encoders", lambda *_: [Difference("vicuna", 1e-6, 2e-7)])
    monkeypatch.setattr(exporter, "can_compare_logits", lambda _: False)


@pytest.fixture
def run(monkeypatch, capsys):
    """Run the console script; returns exit code, stdout and stderr."""
    monkeypatch.setattr(cli.signal, "signal", lambda *_: None)

    def run(*arguments):
        monkeypatch.setattr("sys.argv", ["video-llava-export", *map(str, arguments)])
        with pytest.raises(SystemExit, match=r"^\d+$") as raised:
            cli.main()
        return raised.value.code, *capsys.readouterr()

    return run
