"""An engine that computes nothing: prompts go to a process of their own as vLLM sends them, tokens come from a clock.

All streams get their token in the same step, as from a batch. A request's `seed` is its tokens per second; without one
all tokens come at once.
"""

import asyncio
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Mapping
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import torch
import zmq
import zmq.asyncio
from vllm.outputs import CompletionOutput, RequestOutput
from vllm.plugins import load_general_plugins
from vllm.sampling_params import RequestOutputKind, SamplingParams
from vllm.v1.core import kv_cache_utils
from vllm.v1.engine import EngineCoreRequest
from vllm.v1.engine.output_processor import RequestOutputCollector
from vllm.v1.metrics.stats import RequestStateStats
from vllm.v1.serial_utils import MsgpackDecoder, MsgpackEncoder

_TOKEN, _WORD = 7, " word"
_BLOCK = 16
_TIMES = RequestStateStats(queued_ts=1.0, scheduled_ts=1.0, first_token_ts=1.0, last_token_ts=1.0)


class StandIn:
    """What `Engine` uses of AsyncLLM."""

    errored = False

    def __init__(self, arguments: Any) -> None:
        dtype = getattr(torch, arguments.dtype)
        self.model_config = SimpleNamespace(dtype=dtype, max_model_len=arguments.max_model_len)
        self.vllm_config, self.get_tokenizer = MagicMock(), MagicMock()
        self._folder = tempfile.TemporaryDirectory()
        address = f"ipc://{self._folder.name}/engine"
        self._socket = zmq.asyncio.Context().socket(zmq.DEALER)
        self._socket.bind(address)
        # Not sys.executable, which is the stub.
        python = shutil.which("python3") or sys.executable
        self._process = subprocess.Popen([python, __file__, address])
        self.engine_core = SimpleNamespace(encoder=MsgpackEncoder())
        self._prefills: dict[str, asyncio.Future[None]] = {}
        self._batches: dict[int, _Batch] = {}
        self._reading: asyncio.Task[None] | None = None

    @classmethod
    def from_engine_args(cls, arguments: Any, **_options: Any) -> "StandIn":
        return cls(arguments)

    async def generate(
        self,
        prompt: Any,
        sampling: SamplingParams,
        request_id: str,
        *,
        trace_headers: Mapping[str, str] | None,
        lora_request: None = None,  # noqa: ARG002 (vLLM's signature)
        priority: int = 0,  # noqa: ARG002
    ) -> AsyncIterator[Any]:
        self._reading = self._reading or asyncio.create_task(self._read())
        await self._send(prompt, sampling, request_id, trace_headers)
        try:
            ids, count = prompt["prompt_token_ids"], sampling.max_tokens or 1
            if sampling.output_kind is RequestOutputKind.FINAL_ONLY or not sampling.seed:
                yield _output(request_id, ids, count, finished=True)
                return
            collector = RequestOutputCollector(RequestOutputKind.DELTA, request_id)
            if sampling.seed not in self._batches:
                self._batches[sampling.seed] = _Batch(sampling.seed)
            self._batches[sampling.seed].join(collector, ids, count)
            while not (output := await collector.get()).finished:
                yield output
            yield output
        finally:
            # Its prompt is let go.
            await self._socket.send_multipart([b"", request_id.encode()])

    async def _send(
        self, prompt: Any, sampling: SamplingParams, request_id: str, trace_headers: Mapping[str, str] | None
    ) -> None:
        request = EngineCoreRequest(
            request_id=request_id,
            prompt_token_ids=prompt["prompt_token_ids"],
            mm_features=None,
            sampling_params=sampling,
            pooling_params=None,
            arrival_time=time.time(),
            lora_request=None,
            cache_salt=None,
            data_parallel_rank=None,
            prompt_embeds=prompt["prompt_embeds"],
            prompt_is_token_ids=prompt.get("is_token_ids"),
            trace_headers=trace_headers,
        )
        prefilled = asyncio.get_running_loop().create_future()
        self._prefills[request_id] = prefilled
        await self._socket.send_multipart(self.engine_core.encoder.encode(request), copy=False)
        await prefilled

    async def _read(self) -> None:
        while True:
            self._prefills.pop((await self._socket.recv()).decode()).set_result(None)

    def shutdown(self, timeout: float) -> None:
        self._process.terminate()
        self._process.wait(timeout)
        self._folder.cleanup()


class _Batch:
    """Streams of one rate: each step gives all of them a token."""

    def __init__(self, tokens_per_second: int) -> None:
        self._seconds = 1 / tokens_per_second
        self._streams: list[tuple[RequestOutputCollector, list[int], list[int]]] = []
        self._stepping = asyncio.create_task(self._step())

    def join(self, collector: RequestOutputCollector, ids: list[int], num_left: int) -> None:
        self._streams.append((collector, ids, [num_left]))

    async def _step(self) -> None:
        step_at = time.monotonic()
        while True:
            step_at = max(step_at + self._seconds, time.monotonic())
            await asyncio.sleep(step_at - time.monotonic())
            for collector, ids, left in self._streams:
                left[0] -= 1
                collector.put(_output(collector.request_id, ids, 1, finished=not left[0]))
            self._streams = [stream for stream in self._streams if stream[2][0]]


def _output(request_id: str, ids: list[int], count: int, *, finished: bool) -> RequestOutput:
    reason = "length" if finished else None
    completion = CompletionOutput(0, _WORD * count, [_TOKEN] * count, None, None, finish_reason=reason)
    return RequestOutput(request_id, None, ids, None, [completion], finished, metrics=_TIMES, num_cached_tokens=0)


def _read_prompt(embeddings: Any, known: set[int]) -> None:
    """Hash its blocks as the prefix cache does, and read the rows that this has not got, as the model runner does."""
    request: Any = SimpleNamespace(prompt_embeds=embeddings, _prompt_embeds_per_block_hashes={})
    block_hash = first = 0
    for start in range(0, len(embeddings) - _BLOCK, _BLOCK):
        keys = kv_cache_utils._gen_prompt_embeds_extra_hash_keys(request, start, start + _BLOCK)
        block_hash = hash((block_hash, str(keys)))
        if block_hash in known and first == start:
            first = start + _BLOCK
        known.add(block_hash)
    embeddings[first:].clone()


def _run_process(address: str) -> None:
    """Take prompts as vLLM's engine process does, say so, and hold each to the end of its answer."""
    socket = zmq.Context().socket(zmq.DEALER)
    socket.connect(address)
    load_general_plugins()
    torch.set_num_threads(1)  # as vLLM does on a GPU
    decoder = MsgpackDecoder(EngineCoreRequest)
    held: dict[str, EngineCoreRequest] = {}
    known: set[int] = set()
    while True:
        frames = socket.recv_multipart(copy=False)
        if not frames[0].bytes:
            held.pop(frames[1].bytes.decode(), None)
            continue
        request = decoder.decode(frames)
        _read_prompt(request.prompt_embeds, known)
        held[request.request_id] = request
        socket.send(request.request_id.encode())
        del frames, request


if __name__ == "__main__":
    _run_process(sys.argv[1])
