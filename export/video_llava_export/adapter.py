"""A PEFT adapter (LoRA) is opened, checked, and its names become those of the checkpoint.

    DIR/adapter_config.json            what it is: rank, alpha, which variant of LoRA
    DIR/adapter_model.safetensors      base_model.model.language_model.model.layers.0.self_attn.q_proj.lora_A.weight …

Names of transformers 4 and 5 are read (`names.py`). What changes the base in a way that is not known here is refused.
"""

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .config import read_json
from .errors import CheckpointError
from .names import LANGUAGE_MODEL, WRAPPERS, canonical_name
from .shards import Source
from .tensors import CheckpointTensor, read_header

CONFIG_NAME = "adapter_config.json"
WEIGHTS_NAME = "adapter_model.safetensors"
PICKLED_NAME = "adapter_model.bin"
BESIDE_NAME = "non_lora_trainables.bin"
"""What the original code keeps of a projector that was trained beside the adapter"""

# How to get plain weights of what is not merged here.
_DO_MERGE = "merge it with PEFT (merge_and_unload, save_pretrained) and export the result"
_READ = {"r", "lora_alpha", "rank_pattern", "alpha_pattern", "use_rslora", "use_dora", "peft_type", "init_lora_weights"}
# They say how it was trained; the saved tensors are what came of it. PEFT too ignores fan_in_fan_out for a Linear.
_OF_TRAINING = {
    *("auto_mapping", "base_model_name_or_path", "revision", "task_type", "inference_mode", "peft_version"),
    *("target_modules", "exclude_modules", "layers_to_transform", "layers_pattern", "modules_to_save"),
    *("lora_dropout", "bias", "fan_in_fan_out", "megatron_core", "loftq_config", "eva_config", "runtime_config"),
    *("corda_config", "lora_ga_config", "qalora_group_size", "ensure_weight_tying"),
}
# Starts that leave the base as it is. PiSSA and others take a part out of it, which the adapter does not say.
_KEEPS_BASE = (True, False, "gaussian", "eva", "orthogonal")
_PREFIX = "base_model.model."
_WRAPPERS = re.compile(r"\.(base_layer|modules_to_save(\.default)?)(?=\.)")
_LORA = re.compile(r"\.lora_(?P<part>A|B|embedding_A|embedding_B|magnitude_vector)(\.default)?(?P<weight>\.weight)?$")
_FLOATS = ("F32", "F16", "BF16", "F64")


@dataclass(frozen=True)
class Lora:
    """What the adapter adds to one weight: `scaling * b @ a`.

    `weight` is the canonical name of that weight; `a` has shape (rank, in), `b` (out, rank). DoRA also has a
    `magnitude`, shape = (out,). Of an embedding the product is transposed.
    """

    weight: str
    a: Source
    b: Source
    scaling: float
    magnitude: Source | None = None
    is_embedding: bool = False

    @property
    def rank(self) -> int:
        """Rows of `a`."""
        return self.a.shape[0]

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the weight that it fits."""
        shape = (self.b.shape[0], self.a.shape[1])
        return shape[::-1] if self.is_embedding else shape


@dataclass(frozen=True)
class Adapter:
    """An opened adapter, by canonical names: `language_model.model.layers.0.self_attn.q_proj.weight`.

    `lora` changes weights; `whole` takes the place of tensors (`modules_to_save`, trained biases and vocabularies).
    """

    folder: Path
    lora: Mapping[str, Lora]
    whole: Mapping[str, Source]

    @property
    def outside_language_model(self) -> list[str]:
        """What it changes in the towers and the projector."""
        return [name for name in (*self.lora, *self.whole) if not name.startswith(LANGUAGE_MODEL)]


def is_adapter(folder: Path) -> bool:
    """Whether the folder holds an adapter, perhaps beside other things."""
    return (folder / CONFIG_NAME).is_file()


def open_adapter(folder: Path) -> Adapter:
    """Read headers and check them; raises `CheckpointError` for what is damaged, or no LoRA that can be merged."""
    config = read_json(folder / CONFIG_NAME)
    _check_config(folder, config)
    parts: dict[str, dict[str, Any]] = {}
    whole: dict[str, Source] = {}
    for stored in _stored_tensors(folder):
        _check_tensor(folder, stored)
        name = WRAPPERS.sub("", stored.name).removeprefix(_PREFIX)
        if match := _LORA.search(name):
            parts.setdefault(name[: match.start()], {})[match["part"]] = stored
        elif "lora_" in name or ".original_module." in name:
            raise CheckpointError(f"{folder} holds {stored.name}, which is no part of LoRA; {_DO_MERGE}")
        else:
            whole[canonical_name(_WRAPPERS.sub("", name))] = stored
    lora = (_pair(folder, module, found, config) for module, found in parts.items())
    adapter = Adapter(folder, {pair.weight: pair for pair in lora}, whole)
    if len(adapter.lora) + len(whole) == 0:
        raise CheckpointError(f"{folder / WEIGHTS_NAME} holds no tensors; save the adapter again")
    return adapter


def _check_config(folder: Path, config: dict[str, Any]) -> None:
    if (kind := config.get("peft_type")) != "LORA":
        raise CheckpointError(f"{folder} is an adapter of peft_type {kind!r}; supported is LORA: {_DO_MERGE}")
    if (start := config.get("init_lora_weights", True)) not in _KEEPS_BASE:
        raise CheckpointError(
            f"{folder} was started with init_lora_weights {start!r}, which changes the base; save it as a plain LoRA "
            "(save_pretrained with path_initial_model_for_weight_conversion), or " + _DO_MERGE
        )
    for name in config.keys() - _READ - _OF_TRAINING:
        if config[name]:
            raise CheckpointError(
                f"{folder / CONFIG_NAME} has {name} {str(config[name])[:100]}, which is not supported; {_DO_MERGE}"
            )


def _stored_tensors(folder: Path) -> Iterator[CheckpointTensor]:
    """Of the adapter, and what the original code has trained beside it: the projector."""
    found = [folder / name for name in (WEIGHTS_NAME, PICKLED_NAME) if (folder / name).is_file()]
    if not found:
        raise CheckpointError(f"{folder} has neither {WEIGHTS_NAME} nor {PICKLED_NAME}; save the adapter again")
    yield from read_header(found[0])
    if (folder / BESIDE_NAME).is_file():
        yield from read_header(folder / BESIDE_NAME)


def _check_tensor(folder: Path, stored: CheckpointTensor) -> None:
    if math.prod(stored.shape) == 0:
        raise CheckpointError(
            f"{folder} holds {stored.name} without numbers (shape {stored.shape}), as ZeRO-3 and FSDP leave tensors "
            "that were not gathered; save the adapter again with them gathered"
        )
    if stored.dtype not in _FLOATS:
        raise CheckpointError(f"{folder} holds {stored.name} as {stored.dtype}; supported are {', '.join(_FLOATS)}")


def _pair(folder: Path, module: str, found: dict[str, Any], config: dict[str, Any]) -> Lora:
    kind = "embedding_" if "embedding_A" in found or "embedding_B" in found else ""
    needed = {f"{kind}A", f"{kind}B", *(["magnitude_vector"] if config.get("use_dora") else [])}
    if found.keys() != needed:
        has, lacks = sorted(found.keys() - needed), sorted(needed - found.keys())
        raise CheckpointError(
            f"{folder} lacks {lacks or 'nothing'} of {module} and has {has or 'nothing'} more than its "
            f"{CONFIG_NAME} says; take both files from the same run"
        )
    a, b = found[f"{kind}A"], found[f"{kind}B"]
    if not len(a.shape) == len(b.shape) == 2:
        raise CheckpointError(f"{folder} changes {module}, which is a convolution (shape {a.shape}); {_DO_MERGE}")
    rank, alpha = (_of_module(config, *names, module) for names in (("rank", "r"), ("alpha", "lora_alpha")))
    if not a.shape[0] == b.shape[1] == rank:
        raise CheckpointError(
            f"{folder} holds {module} with shapes {a.shape} and {b.shape}, its {CONFIG_NAME} says rank {rank}; "
            "take both files from the same run"
        )
    return Lora(
        weight=canonical_name(_WRAPPERS.sub("", f"{module}.weight")),
        a=a,
        b=b,
        scaling=alpha / (math.sqrt(rank) if config.get("use_rslora") else rank),
        magnitude=found.get("magnitude_vector"),
        is_embedding=bool(kind),
    )


def _of_module(config: dict[str, Any], pattern: str, default: str, module: str) -> Any:
    """Rank or alpha: the first pattern that matches the end of the module's name, as PEFT has it."""
    for key, value in (config.get(f"{pattern}_pattern") or {}).items():
        if re.match(rf"(.*\.)?({key})$", module):
            return value
    return config.get(default, 8)
