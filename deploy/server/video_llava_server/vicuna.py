"""The model `vicuna`: a prompt and its media's features become text, on vLLM's engine.

A request's way: `tickets.py` tells whether it came through the ensemble, `admission.py` lets it in, `request.py` reads
the tensors, `sampling.py` and `prompt.py` check them and build what the engine takes, `generations.py` runs it on
`engine.py` once `grammars.py` has compiled its constraint, `replies.py` makes the output tensors, `responses.py` sends
them. `tracing.py` finds its trace.
"""

import faulthandler
import json
import os
import resource
import signal
import time
from functools import partial
from pathlib import Path
from typing import Any

from vllm.outputs import RequestOutput

from . import triton
from .admission import Admission, AdmissionLimits
from .cores import FreeCores
from .engine import Engine, read_engine_arguments
from .engine_metrics import KV_CACHE_USAGE, RUNNING, WAITING, EngineMetrics
from .errors import Cancelled, Internal, RequestError, Unavailable
from .features import Features, Reference
from .gate import on_the_way
from .generations import Deadline, Generation, Generations
from .grammars import CompileLimits
from .limits import model_folder
from .lora import check_name, read_loras
from .manifest import Manifest
from .prompt import PromptBuilder
from .replies import ServerLoad, stage_seconds
from .request import parse_request
from .request_log import Entry, RequestLog
from .responses import ReplyChannel, ResponseThread
from .runtime_folder import RuntimeFolder
from .sampling import parse_sampling
from .tensors import FEATURES, text
from .tickets import Ticket, TicketInspector
from .tracing import trace_headers

_SLOW_START_SECONDS = 300.0
_MAX_OPEN_FILES = 2**16
EXIT_VARIABLE = "VIDEO_LLAVA_EXIT_WITH_ENGINE"
"""With 1, a dead engine ends the server: for containers, which are started again then."""


class Vicuna:
    """What `model.py` passes Triton's calls on to, from one thread."""

    def __init__(self, args: dict[str, str]) -> None:
        # A start that hangs says where, in the server's log.
        faulthandler.dump_traceback_later(_SLOW_START_SECONDS, repeat=True)
        # Each request with media keeps their features open.
        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, _MAX_OPEN_FILES), hard))
        repository = Path(args["model_repository"])
        self._folder = RuntimeFolder.find(os.environ)
        self._folder.forget_drain()
        parameters = json.loads(args["model_config"])["parameters"]
        manifest = Manifest.read(model_folder(repository.parent))
        self._admission = Admission(AdmissionLimits.from_config(parameters, manifest.profile or {}), self._folder)
        self._log = RequestLog("vicuna", manifest, os.environ)
        self._tickets = TicketInspector(self._folder.read_key)
        version = repository / args["model_version"]
        self._loras = read_loras(version)
        self._metrics = EngineMetrics(args, self._loras)
        arguments = read_engine_arguments(version / "model.json")
        self._engine = Engine(arguments, [self._metrics.factory], CompileLimits.from_config(parameters), self._loras)
        self._responses = ResponseThread(self._watch, FreeCores(lambda: self._engine.lag_seconds).measure)
        self._engine.start()
        self._metrics.forget()
        self._prompts = PromptBuilder(
            model_folder(repository.parent),
            dtype=self._engine.dtype,
            max_model_len=self._engine.max_model_len,
        )
        self._generations = Generations(self._engine, self._server_load)
        self._responses.start()
        faulthandler.cancel_dump_traceback_later()
        triton.say_loaded(args)

    def execute(self, requests: list[Any]) -> None:
        """Take the requests and return: their responses follow as the engine generates."""
        for request in requests:
            self._take(request)

    def _take(self, request: Any) -> None:
        tensors = triton.input_tensors(request)
        if "stop" in tensors:
            self._generations.stop(tensors["stop"][0].decode(errors="replace"))
            request.get_response_sender().send(flags=triton.FINAL)
        else:
            self._take_prompt(request, tensors)

    def _take_prompt(self, request: Any, tensors: dict[str, Any]) -> None:
        generation_id = self._generations.new_id(triton.request_id(request))
        entry = self._log.begin(request, tensors)
        channel = self._responses.open(
            request.get_response_sender(),
            generation_id=generation_id,
            on_gone=partial(self._generations.stop, generation_id),
            on_end=partial(self._end, generation_id, entry),
            on_sent=partial(self._admission.end, generation_id),
            on_output=partial(self._note, entry),
        )
        try:
            ticket = self._tickets.take(tensors)
            channel.is_in_ensemble = ticket is not None
            if ticket is not None and entry is not None:
                entry.came_through(ticket)
            # Requests in the ensemble were let in before the drain.
            if ticket is None:
                self._folder.refuse_while_draining()
            self._admission.enter(generation_id, ticket)
            # A cancel while its frames were encoded was not noticed there.
            if request.is_cancelled():
                raise Cancelled("the request was cancelled")
            self._start(request, tensors, channel, ticket, entry)
        except RequestError as exc:
            channel.fail(exc)
        except Exception as exc:  # noqa: BLE001 (a defect met by one request must not cost the others theirs)
            channel.fail(Internal(f"{type(exc).__name__}: {exc}"))

    def _start(
        self, request: Any, tensors: dict[str, Any], channel: ReplyChannel, ticket: Ticket | None, entry: Entry | None
    ) -> None:
        self._engine.check_alive()
        received_seconds = ticket.received_seconds if ticket else None
        deadline = Deadline.of(request.timeout() / 1e6, since=received_seconds)
        deadline.check()
        parsed = parse_request(tensors, request.parameters(), received_seconds=received_seconds)
        if entry is not None:
            entry.sampling(parsed.sampling)
            if parsed.lora_name is not None:
                entry.facts["lora_name"] = parsed.lora_name
        check_name(parsed.lora_name, self._loras)
        sampling = parse_sampling(parsed.sampling, stream=parsed.stream)
        prompt = self._prompts.build(parsed.text, **{name: self._open(name, tensors) for name in FEATURES})
        self._admission.charge(channel.generation_id, prompt.embeddings.nbytes, num_sequences=sampling.n)
        encode_seconds = None if received_seconds is None else time.monotonic() - received_seconds
        if encode_seconds is not None:
            self._metrics.encoded(encode_seconds)
        if entry is not None:
            entry.facts |= {"num_input_tokens": len(prompt.token_ids), "stage_seconds": {"encode": encode_seconds}}
        if parsed.lora_name is not None:
            self._metrics.began(parsed.lora_name)
        self._generations.start(
            Generation(
                id=channel.generation_id,
                request=parsed,
                prompt=prompt,
                sampling=sampling,
                deadline=deadline,
                trace_headers=trace_headers(request),
                replies=channel,
            )
        )

    def _open(self, name: str, tensors: dict[str, Any]) -> Features | None:
        if name not in tensors:
            return None
        reference = Reference.unseal(name, text(tensors, name), self._folder.read_key())
        return Features.open(reference) if reference is not None else None

    def _end(self, generation_id: str, entry: Entry | None, error: RequestError | None) -> None:
        self._admission.leave(generation_id)
        self._log.end(entry, error)
        if error is not None:
            self._metrics.failed(error)

    def _note(self, entry: Entry | None, output: RequestOutput) -> None:
        """Note what is sent to the caller."""
        if output.lora_request is not None:
            num_tokens = sum(len(new.token_ids) for new in output.outputs)
            self._metrics.generated(output.lora_request.lora_name, num_tokens)
        if entry is None:
            return
        entry.add(output.outputs)
        if output.finished:
            seconds = stage_seconds(output, entry.facts["stage_seconds"]["encode"])
            entry.facts |= {"num_cached_tokens": output.num_cached_tokens or 0, "stage_seconds": seconds}

    def _server_load(self) -> ServerLoad:
        return ServerLoad(
            num_encoding=len(on_the_way(self._folder.read_tickets(), self._folder.read_occupancy())),
            num_waiting=int(self._metrics.level(WAITING)),
            num_running=int(self._metrics.level(RUNNING)),
            kv_cache_usage=round(self._metrics.level(KV_CACHE_USAGE), 4),
        )

    def _watch(self) -> None:
        self._metrics.publish(is_engine_up=not self._engine.is_dead, num_log_lines_dropped=self._log.num_dropped)
        # Requests under way get their errors first: Triton waits for them. Popped, since one signal is enough.
        if self._engine.is_dead and os.environ.pop(EXIT_VARIABLE, "") == "1":
            os.kill(os.getppid(), signal.SIGTERM)
        if self._folder.is_drain_over:
            self._generations.stop_all(
                Unavailable("this server stopped before the answer was complete: ask another server", reason="draining")
            )

    def is_ready(self) -> bool:
        """Return False once the engine is dead or a drain is announced. Triton 26.03 and later asks."""
        return not self._engine.is_dead and not self._folder.is_leaving

    def finalize(self) -> None:
        """End the engine's process and the threads."""
        self._engine.stop()
        self._responses.stop()
        self._log.close()
        self._metrics.close()
