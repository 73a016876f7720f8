"""Lets `vllm serve` import LLaVA where torchvision is absent; each of its Python processes reads this file first.

vLLM's LLaVA imports Pixtral, whose image processor in transformers needs torchvision (on PyPI for CUDA only). Of that
module it takes one function that counts tokens, and the same stands in transformers' processor for Pillow.
"""

import importlib.util
import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

_FOLDER = "transformers.models.pixtral"


class _PillowInstead(MetaPathFinder):
    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        del path, target
        if fullname != f"{_FOLDER}.image_processing_pixtral":
            return None
        pillow = importlib.util.find_spec(f"{_FOLDER}.image_processing_pil_pixtral")
        return importlib.util.spec_from_file_location(fullname, pillow.origin) if pillow and pillow.origin else None


if importlib.util.find_spec("torchvision") is None:
    sys.meta_path.insert(0, _PillowInstead())
