"""A language model that is already quantised is passed through for vLLM to read."""

import re
from typing import Any

from .errors import CheckpointError
from .names import LANGUAGE_MODEL, canonical_name
from .tensors import Tensors

METHODS = ("awq", "compressed-tensors", "gptq")
# Lists of modules that a method has quantised, or has not.
_MODULE_LISTS = ("ignore", "modules_to_not_convert", "modules_in_block_to_quantize")
# What bitsandbytes keeps weights in.
_PACKED = ("U8", "I8")
_PREFIX_IN_PATTERN = re.compile(r"(model\\?\.)?language_model\\?\.")


def find_quantization(raw: dict[str, Any]) -> dict[str, Any] | None:
    """The checkpoint's `quantization_config`, or None; `CheckpointError` for a method that is not passed through."""
    given = _given(raw)
    if given is None:
        return None
    if given.get("quant_method") not in METHODS:
        raise CheckpointError(
            f"quantization_config has quant_method {given.get('quant_method')!r}; supported are {', '.join(METHODS)}, "
            "or a checkpoint that is not quantised"
        )
    return given


def without_leftover(raw: dict[str, Any], tensors: Tensors) -> dict[str, Any]:
    """The same `config.json`, or without bitsandbytes' config, which training leaves over weights in full precision.

    Raises `CheckpointError` where bitsandbytes has quantised them.
    """
    given = _given(raw) or {}
    if not (given.get("quant_method") == "bitsandbytes" or given.get("load_in_4bit") or given.get("load_in_8bit")):
        return raw
    if packed := [name for name in tensors if tensors[name].dtype in _PACKED]:
        raise CheckpointError(
            f"the weights are quantised by bitsandbytes ({packed[0]} is {tensors[packed[0]].dtype}), which is not "
            "passed through; export the full-precision base, with --adapter if one was trained, or dequantise it"
        )
    parts = {name: _without(value) for name, value in raw.items() if isinstance(value, dict)}
    return _without(raw | parts)


def _given(raw: dict[str, Any]) -> dict[str, Any] | None:
    return raw.get("quantization_config") or raw.get("text_config", {}).get("quantization_config")


def _without(config: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in config.items() if name != "quantization_config"}


def for_language_model(quantization: dict[str, Any]) -> dict[str, Any]:
    """The same config with its modules named as `LlamaForCausalLM` does."""
    return {
        name: [_rename(module) for module in value] if name in _MODULE_LISTS and isinstance(value, list) else value
        for name, value in quantization.items()
    }


def _rename(module: Any) -> Any:
    if not isinstance(module, str):
        return module
    if module.startswith("re:"):
        return "re:" + _PREFIX_IN_PATTERN.sub("", module.removeprefix("re:"))
    return canonical_name(module + ".").removeprefix(LANGUAGE_MODEL).removesuffix(".")
