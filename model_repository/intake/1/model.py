"""The ensemble's first step: refuses what cannot be answered, fills in media that are absent, notes the time.

This file only adapts Triton's calls; `media.py` checks requests, `gate.py` whether there is room; `metrics.py` counts.
"""

import json
import os
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils  # pyright: ignore[reportMissingImports]
from tokenizers import Tokenizer

from .gate import Gate, OpenGate, Unavailable, find_folder
from .media import Intake, InvalidArgument, read_limits
from .metrics import IntakeMetrics


class TritonPythonModel:
    """What Triton's Python backend calls, from one thread."""

    def initialize(self, args: dict[str, str]) -> None:
        """Read the checkpoint's limits and its tokenizer."""
        repository = Path(args["model_repository"]).parent
        tokenizer = Tokenizer.from_file(str(repository / "vicuna" / "1" / "weights" / "tokenizer.json"))
        self._limits = read_limits(repository)
        self._intake = Intake(self._limits, tokenizer)
        folder = find_folder(os.environ)
        self._gate = OpenGate() if folder is None else Gate(folder)
        self._metrics = IntakeMetrics({"model": args["model_name"], "version": args["model_version"]})

    def execute(self, requests: list[Any]) -> list[Any]:
        """Answer each request with frames for both encoders, or with why not."""
        responses = [self._respond(request) for request in requests]
        for response in responses:
            self._metrics.count(response)
        return responses

    def _respond(self, request: Any) -> Any:
        received_seconds = time.monotonic()
        if list(request.requested_output_names()) == ["limits"]:
            limits = json.dumps(asdict(self._limits)).encode()
            return pb_utils.InferenceResponse([pb_utils.Tensor("limits", np.array([limits], np.object_))])
        tensors = {tensor.name(): tensor.as_numpy() for tensor in request.inputs()}
        try:
            videos, images = self._intake.check(
                _text(tensors.get("text_input")), tensors.get("video_frames"), tensors.get("image_frames")
            )
            if request.is_cancelled():
                return _refusal("CANCELLED: the request was cancelled", pb_utils.TritonError.CANCELLED)
            self._gate.enter()
        except InvalidArgument as exc:
            return _refusal(str(exc), pb_utils.TritonError.INVALID_ARG)
        except Unavailable as exc:
            return _refusal(str(exc), pb_utils.TritonError.UNAVAILABLE)
        return pb_utils.InferenceResponse(
            [
                pb_utils.Tensor("video_frames", videos),
                pb_utils.Tensor("image_frames", images),
                pb_utils.Tensor("received_seconds", np.array([received_seconds])),
            ]
        )

    def finalize(self) -> None:
        """Let go of what is open."""
        self._gate.close()
        self._metrics.close()


def _refusal(text: str, code: Any) -> Any:
    return pb_utils.InferenceResponse(error=pb_utils.TritonError(text, code))


def _text(tensor: np.ndarray | None) -> str:
    if tensor is None:
        raise InvalidArgument("text_input is missing: send the whole prompt, one string")
    try:
        return tensor.reshape(-1)[0].decode("utf-8")
    except UnicodeDecodeError as exc:
        raise InvalidArgument(f"text_input is not UTF-8 text: {exc}") from exc
