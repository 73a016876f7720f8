"""LoRA adapters of the language model: PEFT's folders, checked, and written as vLLM reads them.

vLLM finds a tensor's module by its name, and silently ignores tensors of modules that the model does not have. The
exported language model is a plain Llama; names of adapters that were trained on Video-LLaVA begin otherwise.
"""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from .errors import InvalidArgument
from .manifest import ModelFolderError

if TYPE_CHECKING:
    from video_llava_export.adapter import Adapter, Lora

PARAMETER = "lora_name"
"""The sampling parameter that names a request's adapter, as in Triton's vLLM backend"""

# Beside model.json, as in Triton's vLLM backend: folders by name.
_FILE = "multi_lora.json"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
# Ranks that vLLM reserves room for.
_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
_PREFIX = "language_model."
_LAYER = re.compile(r"model\.layers\.\d+\.(self_attn|mlp)\.\w+_proj")
_INSTEAD = "; merge it into the model instead: video-llava-export CHECKPOINT --adapter DIR --into models"


@dataclass(frozen=True, kw_only=True)
class LoraAdapter:
    """An adapter that vLLM can apply to one language model."""

    name: str
    modules: Mapping[str, "Lora"]
    """by the name of the Llama's module"""

    @classmethod
    def open(cls, name: str, folder: Path, language_model: Path) -> Self:
        """Check PEFT's `folder` against a Llama's. Raises ModelFolderError."""
        # Its imports, torch and transformers, take seconds.
        from video_llava_export.adapter import BESIDE_NAME, open_adapter
        from video_llava_export.errors import CheckpointError

        try:
            if (folder / BESIDE_NAME).exists():
                raise ModelFolderError(f"it has weights beside LoRA, in {BESIDE_NAME}{_INSTEAD}")
            return cls(name=name, modules=_modules(open_adapter(folder), _shapes(language_model)))
        except (CheckpointError, ModelFolderError) as exc:
            raise ModelFolderError(f"--lora {name}={folder}: {exc}") from exc

    @property
    def kinds(self) -> list[str]:
        """What it changes, as q_proj."""
        return sorted({module.rpartition(".")[-1] for module in self.modules})

    @property
    def max_rank(self) -> int:
        """The largest rank of its modules."""
        return max(lora.rank for lora in self.modules.values())

    def write(self, into: Path) -> None:
        """Write the new folder `into` for vLLM."""
        from safetensors.torch import save_file

        into.mkdir(parents=True)
        tensors = {
            f"base_model.model.{module}.lora_{side}.weight": matrix.read().contiguous()
            for module, lora in self.modules.items()
            for side, matrix in (("A", lora.a), ("B", lora.b))
        }
        save_file(tensors, into / "adapter_model.safetensors")
        ranks = {module: lora.rank for module, lora in self.modules.items()}
        # vLLM divides by the rank.
        alphas = {module: lora.scaling * lora.rank for module, lora in self.modules.items()}
        config = {
            "peft_type": "LORA",
            "target_modules": self.kinds,
            **_with_pattern("r", "rank_pattern", ranks),
            **_with_pattern("lora_alpha", "alpha_pattern", alphas),
        }
        (into / "adapter_config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def parse_loras(options: Iterable[str]) -> dict[str, Path]:
    """Return the folders of `NAME=DIR` options by name. Raises ModelFolderError."""
    folders: dict[str, Path] = {}
    for option in options:
        name, equals, folder = option.partition("=")
        if not equals or not folder or not _NAME.fullmatch(name):
            raise ModelFolderError(
                f"--lora takes NAME=DIR, a name of at most 64 letters, digits, '.', '_' and '-', got {option!r}"
            )
        if name in folders:
            raise ModelFolderError(f"--lora {option!r}: {name} is the name of {folders[name]} already")
        folders[name] = Path(folder)
    return folders


def write_loras(adapters: Sequence[LoraAdapter], version: Path) -> dict[str, Any]:
    """Write adapters below `version`, the folder with model.json.

    Returns vLLM's engine arguments for them: all may be in one batch.
    """
    if not adapters:
        return {}
    folders = {adapter.name: version / "lora" / adapter.name for adapter in adapters}
    for adapter in adapters:
        adapter.write(folders[adapter.name])
    text = json.dumps({name: str(folder.resolve()) for name, folder in folders.items()}, indent=2)
    (version / _FILE).write_text(f"{text}\n", encoding="utf-8")
    max_rank = max(adapter.max_rank for adapter in adapters)
    return {
        "enable_lora": True,
        "max_lora_rank": next(rank for rank in _RANKS if rank >= max_rank),
        "max_loras": len(adapters),
        # All stay loaded, also where `max_loras` is set lower.
        "max_cpu_loras": len(adapters),
        # For other modules vLLM would keep room, too; the embedding has none, since prompts are embeddings here.
        "lora_target_modules": sorted({kind for adapter in adapters for kind in adapter.kinds}),
    }


def room_bytes(language_model: Path, arguments: Mapping[str, Any]) -> int:
    """Return what vLLM keeps on each GPU for adapters, by its engine arguments, the dtype's among them."""
    if not arguments.get("enable_lora"):
        return 0
    changed = set(arguments["lora_target_modules"])
    # vLLM has these as one module each.
    for together in ({"q_proj", "k_proj", "v_proj"}, {"gate_proj", "up_proj"}):
        changed |= together if changed & together else set()
    rows_and_columns = sum(
        sum(shape) for module, shape in _shapes(language_model).items() if module.rpartition(".")[-1] in changed
    )
    element_bytes = 4 if arguments.get("dtype") == "float32" else 2
    return rows_and_columns * arguments["max_lora_rank"] * arguments["max_loras"] * element_bytes


def read_loras(version: Path) -> dict[str, str]:
    """Return the adapters' folders by name, of the folder with model.json."""
    path = version / _FILE
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def check_name(name: object, known: Iterable[str]) -> None:
    """Raise InvalidArgument unless there is such an adapter; None names none."""
    if name is not None and name not in (names := list(known)):
        has = f"has {', '.join(names)}" if names else "has none (--lora NAME=DIR)"
        raise InvalidArgument(
            f"sampling_parameters: {PARAMETER} is {name!r}, there is no such adapter: the server {has}"
        )


def _modules(adapter: "Adapter", shapes: Mapping[str, tuple[int, int]]) -> dict[str, "Lora"]:
    """Return what the adapter adds, by the Llama's modules. Raises ModelFolderError if it changes more, or is another
    model's."""
    found = {name.removeprefix(_PREFIX).removesuffix(".weight"): lora for name, lora in adapter.lora.items()}
    others = [*adapter.whole, *(name for name in found if not _LAYER.fullmatch(name))]
    if others:
        raise ModelFolderError(
            f"it changes {len(others)} modules that cannot be changed for a request, such as {others[0]}: only linear "
            f"modules of the language model's layers can{_INSTEAD}"
        )
    for module, lora in found.items():
        if lora.magnitude is not None:
            raise ModelFolderError(f"it is DoRA, which vLLM does not apply{_INSTEAD}")
        if lora.shape != (shape := shapes.get(module)):
            own = f"this model's is {list(shape)}" if shape else "this model has none"
            raise ModelFolderError(
                f"it changes {module} of shape {list(lora.shape)}, {own}: it was trained on another model"
            )
        if lora.rank > _RANKS[-1]:
            raise ModelFolderError(f"{module} has rank {lora.rank}, vLLM takes at most {_RANKS[-1]}{_INSTEAD}")
    return found


def _shapes(language_model: Path) -> dict[str, tuple[int, int]]:
    """Return the shape (out, in) of each linear module of a Llama."""
    config = json.loads((language_model / "config.json").read_text(encoding="utf-8"))
    hidden, mlp, heads = config["hidden_size"], config["intermediate_size"], config["num_attention_heads"]
    width = config.get("head_dim") or hidden // heads
    keys = width * (config.get("num_key_value_heads") or heads)
    kinds = {
        **{f"self_attn.{kind}_proj": (keys, hidden) for kind in "kv"},
        "self_attn.q_proj": (width * heads, hidden),
        "self_attn.o_proj": (hidden, width * heads),
        **{f"mlp.{kind}_proj": (mlp, hidden) for kind in ("gate", "up")},
        "mlp.down_proj": (hidden, mlp),
    }
    layers = range(config["num_hidden_layers"])
    return {f"model.layers.{layer}.{kind}": shape for layer in layers for kind, shape in kinds.items()}


def _with_pattern(name: str, pattern: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the first value as the default, and those that differ by their modules, as PEFT's configuration has it."""
    default = next(iter(values.values()))
    others = {re.escape(module): value for module, value in values.items() if value != default}
    return {name: default, pattern: others}
