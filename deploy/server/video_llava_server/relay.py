"""The model `relay`, the ensemble's last step: passes every response on and notices a caller who has gone.

An ensemble does not tell a running step that its request was cancelled: the language model would generate to the end.
This step is scheduled anew for each response, so its own request is marked cancelled; it then asks the language model
to stop that generation. While there is no response the language model sends a heartbeat, which ends here: this step is
decoupled, so it may answer nothing. One instance without dynamic batching keeps responses in order. Errors come through
here too, as a tensor (why: `ReplyChannel` in responses.py).
"""

from collections import deque
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils  # pyright: ignore[reportMissingImports]

from . import triton
from .errors import RequestError

_NUM_REMEMBERED = 1024


class TritonPythonModel:
    """What Triton's Python backend calls, from one thread."""

    def initialize(self, args: dict[str, str]) -> None:
        """Start with no stopped generation."""
        # The newest only: responses that follow a stop are few and come at once.
        self._stopped: deque[bytes] = deque(maxlen=_NUM_REMEMBERED)
        triton.say_loaded(args)

    def execute(self, requests: list[Any]) -> None:
        """Pass each response's tensors on under their own names, or its error as the request's error."""
        for request in requests:
            self._pass_on(request)

    def _pass_on(self, request: Any) -> None:
        sender = request.get_response_sender()
        tensors = {tensor.name(): tensor for tensor in request.inputs()}
        generation_id = tensors.pop("generation_id")
        if "error" in tensors:
            error = RequestError.parse(tensors["error"].as_numpy()[0].decode(errors="replace"))
            sender.send(triton.response(error), flags=triton.FINAL)
            return
        if request.is_cancelled():
            self._stop_once(generation_id.as_numpy())
        if tensors:
            sender.send(pb_utils.InferenceResponse(list(tensors.values())), flags=triton.FINAL)
        else:
            sender.send(flags=triton.FINAL)

    def _stop_once(self, generation_id: np.ndarray) -> None:
        if generation_id[0] not in self._stopped:
            self._stopped.append(generation_id[0])
            _stop(generation_id)


def _stop(generation_id: np.ndarray) -> None:
    request = pb_utils.InferenceRequest(
        model_name="vicuna", requested_output_names=["text_output"], inputs=[pb_utils.Tensor("stop", generation_id)]
    )
    for response in request.exec(decoupled=True):
        if response.has_error():
            triton.log_error(f"[relay] could not stop {generation_id[0]!r}: {response.error().message()}")
