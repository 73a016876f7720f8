"""What comes to the ensemble and what is refused at once, on Triton's metrics endpoint."""

from typing import Any

import triton_python_backend_utils as pb_utils  # pyright: ignore[reportMissingImports]

REQUESTS = "video_llava:requests_total"
FAILED = "video_llava:requests_failed_total"
FRAMES = {"video_frames": "video_llava:video_frames_total", "image_frames": "video_llava:image_frames_total"}
# Triton's cache counts each request at each encoder, those without frames for it as hits: these are those with frames.
REQUESTS_WITH = {"video_frames": "video_llava:video_requests_total", "image_frames": "video_llava:image_requests_total"}
CODES = ("INVALID_ARGUMENT", "UNAVAILABLE", "CANCELLED")


class IntakeMetrics:
    """Counts responses of this step, each one a request of the ensemble's."""

    def __init__(self, labels: dict[str, str]) -> None:
        self._families: list[Any] = []
        self._requests = self._counter(REQUESTS, "Requests to the ensemble, those refused too").Metric(labels=labels)
        # The language model counts into the same family under its own label.
        failed = self._counter(FAILED, "Requests refused or ended without a (whole) answer, by gRPC's status code")
        self._failed = {code: failed.Metric(labels=labels | {"code": code}) for code in CODES}
        self._frames = {
            tensor: self._counter(name, f"Frames for the encoders in {tensor}").Metric(labels=labels)
            for tensor, name in FRAMES.items()
        }
        self._requests_with = {
            tensor: self._counter(name, f"Requests with {tensor}, not refused").Metric(labels=labels)
            for tensor, name in REQUESTS_WITH.items()
        }

    def _counter(self, name: str, text: str) -> Any:
        family = pb_utils.MetricFamily(name=name, description=text, kind=pb_utils.MetricFamily.COUNTER)
        self._families.append(family)  # a metric dies with its family
        return family

    def count(self, response: Any) -> None:
        """Take note of one response: frames for the encoders, or an error whose text begins with its code."""
        if response.has_error():
            self._requests.increment(1)
            self._failed[response.error().message().partition(":")[0]].increment(1)
            return
        frames = {tensor.name(): len(tensor.as_numpy()) for tensor in response.output_tensors()}
        if not frames.keys() >= FRAMES.keys():
            return  # a client asked for the limits
        self._requests.increment(1)
        for tensor, metric in self._frames.items():
            if frames[tensor]:
                metric.increment(frames[tensor])
                self._requests_with[tensor].increment(1)

    def close(self) -> None:
        """Let go of Triton's metrics, which it must see while the model still lives."""
        self._failed.clear()
        self._frames.clear()
        self._requests_with.clear()
        del self._requests
        self._families.clear()
