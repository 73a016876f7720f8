"""The language model: a prompt and its media's features become text, on vLLM's engine.

This file only adapts Triton's calls. A request's way: `admission.py` lets it in, `request.py` reads the tensors,
`sampling.py` and `prompt.py` check them and build what the engine takes, `generations.py` runs it on `engine.py`,
`replies.py` makes the output tensors, `outbox.py` sends them. `tracing.py` finds the trace that it is part of.
"""

import json
import os
import time
from functools import partial
from pathlib import Path
from typing import Any

import torch
import triton_python_backend_utils as pb_utils  # pyright: ignore[reportMissingImports]

from .admission import Admission, AdmissionLimits
from .engine import Engine, read_engine_arguments
from .errors import Cancelled, Internal, RequestError, Unavailable
from .generations import Generation, Generations
from .manifest import read_manifest
from .metrics import EngineMetrics
from .outbox import Caller, Outbox
from .prompt import PromptBuilder
from .request import parse_request
from .runtime import Drain, OccupancyFile, find_folder
from .sampling import parse_sampling
from .tracing import trace_headers


class Adapter:
    """What `TritonPythonModel` passes on, from one thread."""

    def __init__(self, args: dict[str, str]) -> None:
        repository = Path(args["model_repository"])
        version = repository / args["model_version"]
        manifest = read_manifest(repository.parent)
        parameters = json.loads(args["model_config"])["parameters"]
        limits = AdmissionLimits.from_config(parameters)
        runtime = find_folder(os.environ)
        self._drain = Drain(runtime)
        self._occupancy = OccupancyFile(runtime, max_requests=limits.max_requests)
        self._admission = Admission(limits, self._occupancy)
        self._metrics = EngineMetrics({"model": args["model_name"], "version": args["model_version"]})
        self._engine = Engine(read_engine_arguments(version), [self._metrics.factory])
        self._outbox = Outbox(self._look_around)
        self._engine.start()
        # For this process, which only puts prompts together: to wake another thread takes longer than that.
        torch.set_num_threads(1)
        self._prompts = PromptBuilder(
            version / "weights", manifest, dtype=self._engine.dtype, max_model_len=self._engine.max_model_len
        )
        self._generations = Generations(self._engine)
        self._outbox.start()

    def execute(self, requests: list[Any]) -> None:
        """Take the requests and return: their responses follow as the engine generates."""
        for request in requests:
            self._take(request)

    def _take(self, request: Any) -> None:
        tensors = {tensor.name(): tensor.as_numpy() for tensor in request.inputs()}
        if "stop" in tensors:
            self._generations.stop(tensors["stop"][0].decode(errors="replace"))
            request.get_response_sender().send(flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
        else:
            self._take_prompt(request, tensors)

    def _take_prompt(self, request: Any, tensors: dict[str, Any]) -> None:
        generation_id = self._generations.new_id(request.request_id())
        is_from_intake = "received_seconds" in tensors
        caller = self._outbox.open(
            request.get_response_sender(),
            generation_id=generation_id,
            has_relay=is_from_intake,
            on_gone=partial(self._generations.stop, generation_id),
            on_end=partial(self._end, generation_id),
        )
        try:
            # The drain lets those pass who were let in before it.
            if not is_from_intake:
                self._drain.check()
            self._admission.enter(generation_id, from_intake=is_from_intake)
            # While frames were encoded nobody could tell.
            if request.is_cancelled():
                raise Cancelled("the request was cancelled")
            self._start(request, tensors, generation_id, caller)
        except RequestError as exc:
            caller.fail(exc)
        except Exception as exc:  # noqa: BLE001 (a defect met by one request must not cost the others theirs)
            caller.fail(Internal(f"{type(exc).__name__}: {exc}"))

    def _start(self, request: Any, tensors: dict[str, Any], generation_id: str, caller: Caller) -> None:
        self._engine.check_alive()
        parsed = parse_request(tensors, request.parameters())
        sampling = parse_sampling(parsed.sampling, stream=parsed.stream)
        prompt = self._prompts.build(
            parsed.text, video_features=parsed.video_features, image_features=parsed.image_features
        )
        self._admission.charge(generation_id, prompt.embeddings.nbytes)
        if parsed.received_seconds is not None:
            self._metrics.requests.encoded(time.monotonic() - parsed.received_seconds)
        self._generations.start(
            Generation(
                id=generation_id,
                request=parsed,
                prompt=prompt,
                sampling=sampling,
                timeout_seconds=request.timeout() / 1e6 or None,
                trace_headers=trace_headers(request),
                replies=caller,
            )
        )

    def _end(self, generation_id: str, error: RequestError | None) -> None:
        self._admission.leave(generation_id)
        if error is not None:
            self._metrics.requests.failed(error)

    def _look_around(self) -> None:
        self._metrics.publish()
        if self._drain.is_over:
            self._generations.stop_all(
                Unavailable("this server stopped before the answer was complete: ask another server")
            )

    def is_ready(self) -> bool:
        """Asked by Triton 26.03 and later: neither a dead engine nor one that is to be emptied is ready."""
        return not self._engine.is_dead and not self._drain.is_announced

    def finalize(self) -> None:
        """End the engine's process and the threads."""
        self._engine.stop()
        self._outbox.stop()
        self._metrics.close()
        self._occupancy.close()
