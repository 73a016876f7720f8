"""A language model that is already quantised is passed through for vLLM to read."""

import re
from typing import Any

from .errors import CheckpointError
from .names import LANGUAGE_MODEL, canonical_name

METHODS = ("awq", "compressed-tensors", "gptq")
# Lists of modules that a method has quantised, or has not.
_MODULE_LISTS = ("ignore", "modules_to_not_convert", "modules_in_block_to_quantize")
_PREFIX_IN_PATTERN = re.compile(r"(model\\?\.)?language_model\\?\.")


def find_quantization(raw: dict[str, Any]) -> dict[str, Any] | None:
    """The checkpoint's `quantization_config`, or None; `CheckpointError` for a method that is not passed through."""
    given = raw.get("quantization_config") or raw.get("text_config", {}).get("quantization_config")
    if given is None:
        return None
    if given.get("quant_method") not in METHODS:
        raise CheckpointError(
            f"quantization_config has quant_method {given.get('quant_method')!r}; supported are {', '.join(METHODS)}, "
            "or a checkpoint that is not quantised"
        )
    return given


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
