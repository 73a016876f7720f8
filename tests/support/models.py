"""Imports the models' code the way Triton's Python stub does, without Triton."""

import importlib
import sys
import warnings
from pathlib import Path
from types import ModuleType
from typing import Any

REPOSITORY = Path(__file__).parents[2] / "model_repository"


class FakeTensor:
    def __init__(self, name: str, array: Any) -> None:
        self._name, self._array = name, array

    def name(self) -> str:
        return self._name

    def as_numpy(self) -> Any:
        return self._array


class FakeError(Exception):
    INVALID_ARG, UNAVAILABLE, CANCELLED, INTERNAL = "INVALID_ARG", "UNAVAILABLE", "CANCELLED", "INTERNAL"

    def __init__(self, message: str, code: str = "INTERNAL") -> None:
        super().__init__(message)
        self.code = code


class FakeResponse:
    def __init__(self, output_tensors: Any = (), error: Any = None) -> None:
        self.tensors = {tensor.name(): tensor.as_numpy() for tensor in output_tensors}
        self.error = error


def load(name: str) -> Any:
    """Return a module of a model's version folder, for example "vicuna.prompt"."""
    triton: Any = ModuleType("triton_python_backend_utils")
    triton.Tensor, triton.TritonError, triton.InferenceResponse = FakeTensor, FakeError, FakeResponse
    triton.TRITONSERVER_RESPONSE_COMPLETE_FINAL = 1
    sys.modules.setdefault("triton_python_backend_utils", triton)
    model = name.split(".")[0]
    if model not in sys.modules:
        package = ModuleType(model)
        package.__path__ = [str(REPOSITORY / model / "1")]
        sys.modules[model] = package
    with warnings.catch_warnings(action="ignore"):  # what torch and vLLM say of themselves
        return importlib.import_module(name)
