"""Stands in for Triton's `triton_python_backend_utils`, so that the models' code can be imported without Triton."""

import sys
from types import ModuleType
from typing import Any

FINAL = 1


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


class FakeMetric:
    def __init__(self, name: str, labels: dict[str, str], buckets: Any) -> None:
        self.name, self.labels, self.buckets = name, labels, buckets
        self.observed: list[float] = []
        self.total = 0.0

    def increment(self, value: float) -> None:
        self.total += value

    def set(self, value: float) -> None:
        self.total = value

    def observe(self, value: float) -> None:
        self.observed.append(value)


class FakeMetricFamily:
    COUNTER, GAUGE, HISTOGRAM = "COUNTER", "GAUGE", "HISTOGRAM"
    made: list[FakeMetric] = []  # noqa: RUF012 (tests empty it)

    def __init__(self, name: str, description: str, kind: str) -> None:
        self._name, self._kind = name, kind
        assert description

    def Metric(self, labels: dict[str, str], buckets: Any = None) -> FakeMetric:  # noqa: N802 (Triton's name)
        assert (buckets is not None) == (self._kind == self.HISTOGRAM)
        self.made.append(FakeMetric(self._name, labels, buckets))
        return self.made[-1]


class FakeLogger:
    lines: list[str] = []  # noqa: RUF012 (tests empty it)

    @classmethod
    def log_error(cls, line: str) -> None:
        cls.lines.append(line)


class FakeSender:
    """A request's response sender; keeps (tensors, error text, flags) of each response."""

    def __init__(self) -> None:
        self.sent: list[tuple[dict[str, Any], str, int]] = []
        self.cancelled = False

    def is_cancelled(self) -> bool:
        return self.cancelled

    def send(self, response: FakeResponse | None = None, *, flags: int = 0) -> None:
        tensors, error = (response.tensors, str(response.error or "")) if response else ({}, "")
        self.sent.append((tensors, error, flags))


class FakeRequest:
    """A request to a Python model."""

    def __init__(
        self,
        tensors: dict[str, Any] | None = None,
        *,
        outputs: tuple[str, ...] = (),
        cancelled: bool = False,
        timeout_us: int = 0,
        request_id: str = "",
        parameters: str = "{}",
    ) -> None:
        self._tensors = [FakeTensor(name, array) for name, array in (tensors or {}).items()]
        self._outputs, self._cancelled, self._timeout_us = outputs, cancelled, timeout_us
        self._request_id, self._parameters = request_id, parameters
        self.sender = FakeSender()

    def inputs(self) -> list[FakeTensor]:
        return self._tensors

    def requested_output_names(self) -> tuple[str, ...]:
        return self._outputs

    def is_cancelled(self) -> bool:
        return self._cancelled

    def request_id(self) -> str:
        return self._request_id

    def parameters(self) -> str:
        return self._parameters

    def timeout(self) -> int:
        return self._timeout_us

    def trace(self) -> "FakeRequest":
        return self

    def get_context(self) -> str:
        return ""

    def get_response_sender(self) -> FakeSender:
        return self.sender


def install() -> Any:
    """Put the fake in the place of Triton's module; return it."""
    module: Any = ModuleType("triton_python_backend_utils")
    module.Tensor, module.TritonError, module.InferenceResponse = FakeTensor, FakeError, FakeResponse
    module.MetricFamily, module.Logger = FakeMetricFamily, FakeLogger
    module.TRITONSERVER_RESPONSE_COMPLETE_FINAL = FINAL
    return sys.modules.setdefault("triton_python_backend_utils", module)
