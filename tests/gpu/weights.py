"""Draws a checkpoint on the GPU, exports it as users do, and describes its twin for `vllm serve`, without weights."""

import os
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from bench.checkpoints import CHAT_TEMPLATE, Checkpoints, make_config, write_llava
from bench.shapes import NUM_PIECES
from transformers import GenerationConfig
from video_llava_export import random_checkpoint
from video_llava_export.checkpoint import open_checkpoint
from video_llava_export.exporter import ExportOptions, export
from video_llava_export.graph import Precision
from video_llava_export.llama_tokenizer import train_tokenizer
from video_llava_export.profiles import Hardware
from video_llava_export.random_weights import RandomTensor
from video_llava_export.shards import write_shards
from video_llava_server.manifest import Manifest

from .plan import DEVICE, DRY, MODELS, SHAPES

_EXPORTED = "exported"


@dataclass(frozen=True)
class DrawnTensor(RandomTensor):
    """A bfloat16 tensor, drawn on the device."""

    dtype: str = "BF16"
    num_rows: int | None = None
    """those after them are zeros"""

    def read(self) -> torch.Tensor:
        """Draw it; returns it in host memory."""
        generator = torch.Generator(DEVICE).manual_seed(self.seed)
        tensor = torch.empty(self.shape, dtype=torch.bfloat16, device=DEVICE)
        tensor.normal_(self.mean, self.scale, generator=generator)
        if self.num_rows is not None:
            tensor[self.num_rows :] = 0
        return tensor.cpu()


def run(size: str) -> dict[str, Any]:
    """Make the `full` or the `small` model, unless it is there."""
    made = Checkpoints(MODELS / size)
    if not (made.folder / "models" / _EXPORTED).exists():
        _write_checkpoint(made, size)
        options = ExportOptions(
            model_id=_EXPORTED,
            precision=Precision.FP16,
            hardware=Hardware.parse(_hardware()),
            engine_arguments={"max_num_seqs": 128},
        )
        export(open_checkpoint(str(made.video_llava)), made.folder / "models", options=options)
    return {"model": str(made.folder)}


def _write_checkpoint(made: Checkpoints, size: str) -> None:
    if size == "full":
        alphabet = random_checkpoint._ALPHABET[:31_000]
        tokenizer = train_tokenizer([random_checkpoint.read_license()], num_pieces=32_000, alphabet=alphabet)
        config = random_checkpoint.make_config(tokenizer, random_checkpoint.Shapes.FULL)
    else:
        tokenizer = train_tokenizer([random_checkpoint.read_license()], num_pieces=NUM_PIECES)
        config = make_config(tokenizer, SHAPES[size])
    config.dtype = torch.bfloat16
    config.save_pretrained(made.video_llava)
    random_checkpoint._save_rest(made.video_llava, tokenizer, config)
    drawn = random_checkpoint.make_tensors(config, seed=0)
    tensors = {name: DrawnTensor(each.shape, each.mean, each.scale, each.seed) for name, each in drawn.items()}
    # Ids without a token must not be likely: vLLM 0.32 fails on them where it lists log probabilities.
    (head,) = (name for name in tensors if name.endswith("lm_head.weight"))
    tensors[head] = replace(tensors[head], num_rows=len(tokenizer))
    write_shards(tensors, made.video_llava)
    generation = GenerationConfig.from_pretrained(made.video_llava)
    twin: Any = SimpleNamespace(config=config, generation_config=generation, state_dict=dict)
    write_llava(twin, tokenizer, made.llava)
    made.chat_template.write_text(CHAT_TEMPLATE, encoding="utf-8")


def _hardware() -> str:
    return "cpu" if DRY else f"{torch.cuda.get_device_properties(0).total_memory / 1e9:.0f}gb"


def give_arguments(source: Path, target: Path, arguments: dict[str, Any]) -> None:
    """Make `target` hold the model of `source` with further engine arguments, where the contestants look for it."""
    exported, served = source / "models" / _EXPORTED, Checkpoints(target).model
    draft = target / f"draft-{os.getpid()}"
    shutil.copytree(exported, draft, copy_function=_link)
    manifest = Manifest.read(exported)
    draft.joinpath("manifest.json").unlink()
    replace(manifest, engine_arguments={**manifest.engine_arguments, **arguments}).write(draft)
    served.parent.mkdir(exist_ok=True)
    try:
        draft.rename(served)
    except OSError:  # another step was first
        shutil.rmtree(draft)


def _link(source: str, target: str) -> None:
    Path(target).hardlink_to(source)
