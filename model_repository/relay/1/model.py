"""The ensemble's last step: every response passes through, and a caller who has gone is noticed.

An ensemble tells a step that runs already nothing of a cancelled request: the language model would generate to the
end. This step is scheduled anew for each response, so its own request is marked cancelled; it then asks the language
model to stop that generation. Where there is no response for a while the language model sends a pulse, which ends
here: being decoupled, this step may answer nothing. Responses keep their order since there is one instance and no
dynamic batching, and so do errors, which the language model sends through here too (why: `Caller` in
vicuna/1/outbox.py).
"""

from collections import deque
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils  # pyright: ignore[reportMissingImports]

_NUM_REMEMBERED = 1024
_FINAL = pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL


class TritonPythonModel:
    """What Triton's Python backend calls, from one thread."""

    def initialize(self, _args: dict[str, str]) -> None:
        """Nothing was stopped yet."""
        # The newest only: responses that follow a stop are few and come at once.
        self._stopped: deque[bytes] = deque(maxlen=_NUM_REMEMBERED)

    def execute(self, requests: list[Any]) -> None:
        """Pass each response's tensors on under their own names, or its error as the request's error."""
        for request in requests:
            self._pass_on(request)

    def _pass_on(self, request: Any) -> None:
        sender = request.get_response_sender()
        tensors = {tensor.name(): tensor for tensor in request.inputs()}
        generation_id = tensors.pop("generation_id")
        if "error" in tensors:
            sender.send(pb_utils.InferenceResponse(error=_error(tensors["error"].as_numpy()[0].decode())), flags=_FINAL)
            return
        if request.is_cancelled():
            self._stop_once(generation_id.as_numpy())
        if tensors:
            sender.send(pb_utils.InferenceResponse(list(tensors.values())), flags=_FINAL)
        else:
            sender.send(flags=_FINAL)

    def _stop_once(self, generation_id: np.ndarray) -> None:
        if generation_id[0] not in self._stopped:
            self._stopped.append(generation_id[0])
            _stop(generation_id)


def _error(text: str) -> Any:
    """Make Triton's error of a text that begins with a gRPC status code."""
    codes = {
        "INVALID_ARGUMENT": pb_utils.TritonError.INVALID_ARG,
        "UNAVAILABLE": pb_utils.TritonError.UNAVAILABLE,
        "CANCELLED": pb_utils.TritonError.CANCELLED,
    }
    return pb_utils.TritonError(text, codes.get(text.partition(":")[0], pb_utils.TritonError.INTERNAL))


def _stop(generation_id: np.ndarray) -> None:
    request = pb_utils.InferenceRequest(
        model_name="vicuna", requested_output_names=["text_output"], inputs=[pb_utils.Tensor("stop", generation_id)]
    )
    for response in request.exec(decoupled=True):
        if response.has_error():
            pb_utils.Logger.log_error(f"[relay] could not stop {generation_id[0]!r}: {response.error().message()}")
