"""A running server, asked through Triton's own client: features from the encoders, answers from the ensemble."""

import json
import queue
from collections.abc import Mapping
from importlib import import_module
from types import TracebackType
from typing import Any, Self

import numpy as np
from video_llava_client import Clip, Conventions, load_image

from .comparison import Case, GreedyAnswer
from .errors import ParityError
from .graph import INPUT, OUTPUT
from .reference import prompt_of

grpcclient: Any = import_module("tritonclient.grpc")
_utils: Any = import_module("tritonclient.utils")

# Tokens whose log probabilities the server lists at each place; vLLM allows up to 20.
NUM_LOGPROBS = 5


class ServedModel:
    """A running server, inside `with`; every wait ends after `timeout_seconds`. Raises `ParityError`."""

    def __init__(self, url: str, *, timeout_seconds: float) -> None:
        self._url = url
        self._timeout_seconds = timeout_seconds
        self._client = grpcclient.InferenceServerClient(url)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._client.close()

    def answer(self, case: Case, *, max_tokens: int) -> GreedyAnswer:
        """Sample the case's file as the client does, and ask."""
        encoder = f"{case.medium}_encoder"
        try:
            conventions = self._conventions()
            frames = self._load(case, self._frame_size(encoder), conventions)
            features = self._client.infer(
                encoder, [_input(INPUT, frames[None])], client_timeout=self._timeout_seconds
            ).as_numpy(OUTPUT)[0]
            outputs = self._ask(case, prompt_of(case, system=conventions.system), frames, max_tokens)
        except _utils.InferenceServerException as exc:
            raise ParityError(f"{self._url} did not answer about {case.media}: {exc}") from exc
        logprobs = json.loads(outputs["logprobs"][0]) or []
        return GreedyAnswer(
            text=outputs["text_output"][0].decode(),
            features=features,
            token_ids=tuple(json.loads(outputs["token_ids"][0])),
            logprobs=[{int(token): entry["logprob"] for token, entry in place.items()} for place in logprobs],
        )

    def _frame_size(self, encoder: str) -> int:
        metadata = self._client.get_model_metadata(encoder, client_timeout=self._timeout_seconds)
        return int(metadata.inputs[0].shape[2])

    def _conventions(self) -> Conventions:
        """As the client learns them."""
        outputs = [grpcclient.InferRequestedOutput("limits")]
        limits = self._client.infer("intake", [], outputs=outputs, client_timeout=self._timeout_seconds)
        return Conventions.from_facts(json.loads(limits.as_numpy("limits")[0]))

    @staticmethod
    def _load(case: Case, size: int, conventions: Conventions) -> np.ndarray:
        if case.medium == "video":
            return Clip.load(case.media, size=size, conventions=conventions).frames
        return load_image(case.media, size=size, conventions=conventions)[None]

    def _ask(self, case: Case, prompt: str, frames: np.ndarray, max_tokens: int) -> Mapping[str, np.ndarray]:
        """One answer, whole, of the decoupled ensemble."""
        sampling = {"max_tokens": max_tokens, "temperature": 0, "logprobs": NUM_LOGPROBS}
        tensors: dict[str, Any] = {
            "text_input": _string(prompt),
            f"{case.medium}_frames": frames,
            "sampling_parameters": _string(json.dumps(sampling)),
            "exclude_input_in_output": np.array([True]),
            "return_token_ids": np.array([True]),
            "return_logprobs": np.array([True]),
        }
        responses: queue.Queue[tuple[Any, Any]] = queue.Queue()
        self._client.start_stream(
            lambda result, error: responses.put((result, error)), stream_timeout=self._timeout_seconds
        )
        try:
            self._client.async_stream_infer(
                "video_llava",
                [_input(name, tensor) for name, tensor in tensors.items()],
                request_id=f"verify-{id(case)}",
            )
            result, error = responses.get(timeout=self._timeout_seconds + 10)
        except queue.Empty:
            raise ParityError(f"{self._url} gave no answer within {self._timeout_seconds:g} s; allow more") from None
        finally:
            self._client.stop_stream(cancel_requests=True)
        if error is not None:
            raise error
        names = ("text_output", "token_ids", "logprobs")
        return {name: result.as_numpy(name) for name in names}


def _string(text: str) -> np.ndarray:
    return np.array([text.encode()], np.object_)


def _input(name: str, array: np.ndarray) -> Any:
    array = np.ascontiguousarray(array)
    tensor = grpcclient.InferInput(name, list(array.shape), _utils.np_to_triton_dtype(array.dtype))
    tensor.set_data_from_numpy(array)
    return tensor
