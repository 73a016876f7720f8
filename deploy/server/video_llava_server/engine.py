"""vLLM's AsyncLLM on an event loop of its own thread: Triton calls from another one."""

import asyncio
import json
import os
import threading
import time
from collections.abc import AsyncIterator, Callable, Mapping
from concurrent.futures import Future
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.exceptions import GracefulHTTPError, VLLMClientError
from vllm.inputs.engine import EmbedsInput, TokensInput
from vllm.lora.request import LoRARequest
from vllm.outputs import RequestOutput
from vllm.platforms import current_platform
from vllm.sampling_params import RequestOutputKind, SamplingParams
from vllm.v1.engine.async_llm import AsyncLLM
from vllm.v1.engine.exceptions import EngineDeadError
from vllm.v1.metrics.loggers import StatLoggerFactory

from .engine_grammars import SCHEDULER
from .errors import Internal, InvalidArgument, RequestError, Unavailable
from .grammars import CompileLimits, Grammars
from .lora import read_loras
from .prompt import Prompt
from .prompt_tensor import PromptSender, is_installed
from .token_texts import accept_ids_without_token

# For the engine's processes to end by themselves, before they are killed. Below Triton's own exit timeout.
_SHUTDOWN_SECONDS = 10.0
_LAG_EVERY_SECONDS = 0.1
# Less than a block of the prefix cache.
_PROBE_TOKENS = 8
# By name: only the engine's own processes may import it.
_CPU_WORKER = "video_llava_server.cpu_seeds.Worker"


def _dead() -> Unavailable:
    return Unavailable(
        "the engine process has died: ask another server, this one must be restarted", reason="engine_dead"
    )


def read_engine_arguments(path: Path) -> AsyncEngineArgs:
    """Read a `model.json`: vLLM's AsyncEngineArgs, as in Triton's vLLM backend.

    Traces go where OpenTelemetry's own variable says, unless `otlp_traces_endpoint` does.
    Raises ValueError for an argument that this vLLM does not have, or that is this server's own.
    """
    arguments = json.loads(path.read_text(encoding="utf-8"))
    unknown = arguments.keys() - AsyncEngineArgs.__dataclass_fields__.keys()
    if unknown:
        raise ValueError(f"{path}: vLLM has no engine argument {', '.join(sorted(unknown))}")
    if arguments.get("scheduler_cls"):
        raise ValueError(f"{path}: scheduler_cls cannot be set, constraints need the server's own: leave it out")
    if endpoint := os.environ.get("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"):
        arguments.setdefault("otlp_traces_endpoint", endpoint)
    arguments["enable_prompt_embeds"] = True
    if current_platform.is_cpu():
        arguments.setdefault("worker_extension_cls", _CPU_WORKER)
        if loras := read_loras(path.parent):
            # There vLLM adds the adapter in the last place to requests without one (vLLM pull request 48421): so that
            # place stays empty.
            arguments |= dict.fromkeys(("max_loras", "max_cpu_loras"), len(loras) + 1)
    # Where blanks are allowed in JSON, answers run into them up to `max_tokens`.
    constraints = {"disable_any_whitespace": True} | arguments.get("structured_outputs_config", {})
    if constraints.setdefault("backend", "xgrammar") != "xgrammar":
        raise ValueError(
            f"{path}: structured_outputs_config.backend is {constraints['backend']!r}, it must be xgrammar"
        )
    arguments["structured_outputs_config"] = constraints
    arguments["scheduler_cls"] = SCHEDULER
    return AsyncEngineArgs(**arguments)


class Engine:
    """One running vLLM engine. `start()` first, `stop()` last; the rest from any thread."""

    def __init__(
        self,
        arguments: AsyncEngineArgs,
        stat_loggers: list[StatLoggerFactory],
        compile_limits: CompileLimits = CompileLimits(),  # noqa: B008 (frozen)
        loras: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        self._arguments = arguments
        self._grammars = Grammars(compile_limits)
        self._stat_loggers = stat_loggers
        self._loras = {name: LoRARequest(name, number, path) for number, (name, path) in enumerate(loras.items(), 1)}
        self._takes_parts = is_installed()
        self._started: Future[AsyncLLM] = Future()
        self._loop = asyncio.new_event_loop()
        self.lag_seconds = 0.0
        """how late the event loop is with what is due"""
        self._thread = threading.Thread(target=self._run, name="vllm-engine", daemon=True)

    def start(self) -> None:
        """Load the model and its adapters, and wait until it can answer.

        Raises what vLLM raised, and ValueError for an adapter that changes nothing.
        """
        accept_ids_without_token()
        self._thread.start()
        self._llm = self._started.result()
        config = self._llm.vllm_config
        self._grammars.start(
            self._llm.get_tokenizer(),
            config.model_config.get_vocab_size(),
            has_blanks=not config.structured_outputs_config.disable_any_whitespace,
        )
        engine_core: Any = self._llm.engine_core
        if self._takes_parts:
            engine_core.encoder.oob_tensor_consumer = PromptSender()
        if self._loras:
            asyncio.run_coroutine_threadsafe(self._load_loras(), self._loop).result()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.call_soon(self._create)
        self._loop.call_soon(self._measure_lag, time.monotonic())
        self._loop.run_forever()

    def _measure_lag(self, due: float) -> None:
        now = time.monotonic()
        self.lag_seconds = now - due
        self._loop.call_later(_LAG_EVERY_SECONDS, self._measure_lag, now + _LAG_EVERY_SECONDS)

    def _create(self) -> None:
        try:
            self._started.set_result(AsyncLLM.from_engine_args(self._arguments, stat_loggers=self._stat_loggers))
        except BaseException as exc:  # noqa: BLE001 (handed to the thread that waits)
            self._started.set_exception(exc)

    async def _load_loras(self) -> None:
        own = await self._probe(None)
        for name, request in self._loras.items():
            await self._llm.add_lora(request)
            if await self._probe(request) == own:
                raise ValueError(
                    f"the adapter {name} in {request.lora_path} changes no answer: it is not trained, or vLLM does not "
                    "know the names of its tensors. Start the server with --lora, which renames them"
                )

    async def _probe(self, lora: LoRARequest | None) -> float | None:
        """Return the log probability of the token that follows a prompt."""
        prompt = TokensInput(type="token", prompt_token_ids=list(range(1, _PROBE_TOKENS + 1)))
        sampling = SamplingParams(temperature=0.0, max_tokens=1, logprobs=0, output_kind=RequestOutputKind.FINAL_ONLY)
        name = lora.lora_name if lora else "none"
        async for output in self._llm.generate(prompt, sampling, f"lora-{name}", lora_request=lora):
            if output.finished:
                return output.outputs[0].cumulative_logprob
        return None

    @property
    def dtype(self) -> torch.dtype:
        """The dtype the model runs in: that of the embeddings it takes."""
        return self._llm.model_config.dtype

    @property
    def max_model_len(self) -> int:
        """Positions of prompt and answer together."""
        return self._llm.model_config.max_model_len

    @property
    def is_dead(self) -> bool:
        """Whether the engine process is gone; only a restart of the server brings it back."""
        return self._llm.errored

    def check_alive(self) -> None:
        """Raise Unavailable if the engine process is gone."""
        if self.is_dead:
            raise _dead()

    def call_soon(self, callback: Callable[..., None], *arguments: object) -> None:
        """Call back on the engine's event loop."""
        self._loop.call_soon_threadsafe(callback, *arguments)

    async def generate(
        self,
        prompt: Prompt,
        sampling: SamplingParams,
        generation_id: str,
        trace_headers: Mapping[str, str] | None = None,
        lora_name: str | None = None,
        priority: int = 0,
    ) -> AsyncIterator[RequestOutput]:
        """Compile the constraint, if there is one, then yield the engine's outputs.

        Closing or cancelling the iterator ends the compile or aborts the generation.

        `trace_headers` (W3C Trace Context) name the trace that the engine's span becomes part of. `lora_name` is one of
        the engine's adapters; requests with a lower `priority` go first. Raises InvalidArgument, Unavailable or
        Internal.
        """
        # The ids stand beside the embeddings for penalties and detokenization; no position is embedded from them.
        inputs = EmbedsInput(
            type="embeds",
            prompt_embeds=prompt.embeddings if self._takes_parts else prompt.embeddings[:],
            prompt_token_ids=prompt.token_ids,
            is_token_ids=[False] * len(prompt.token_ids),
        )
        try:
            async with self._grammars.compiled(sampling) as compiled:
                generated = self._llm.generate(
                    inputs,
                    compiled,
                    generation_id,
                    trace_headers=trace_headers,
                    lora_request=None if lora_name is None else self._loras[lora_name],
                    priority=priority,
                )
                async for output in generated:
                    yield output
        except RequestError:
            raise
        except EngineDeadError as exc:
            raise _dead() from exc
        except GracefulHTTPError as exc:
            raise Unavailable(f"the engine takes no more requests now ({exc}): try again later", reason="full") from exc
        except (VLLMClientError, ValueError) as exc:
            raise InvalidArgument(str(exc)) from exc
        except Exception as exc:
            raise Internal(f"the engine failed: {exc!r}") from exc

    def stop(self) -> None:
        """Abort what runs, end the engine's processes and the thread."""
        if self._thread.is_alive():
            asyncio.run_coroutine_threadsafe(self._shut_down(), self._loop).result(timeout=2 * _SHUTDOWN_SECONDS)
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(timeout=_SHUTDOWN_SECONDS)
            self._loop.close()
        self._grammars.stop()

    async def _shut_down(self) -> None:
        if self._started.done() and self._started.exception() is None:
            self._llm.shutdown(timeout=_SHUTDOWN_SECONDS)
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
