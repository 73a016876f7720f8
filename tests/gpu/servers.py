"""The contestants of `bench` that run on an engine: it in process, this server, `vllm serve`."""

import asyncio
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from bench.checkpoints import Checkpoints
from bench.environment import set_engine_environment
from video_llava_serve import _command

from .gpu_model import GpuModel
from .parity import compare_server
from .plan import CHECKPOINTS, PLAN, RESULTS
from .runs import Runs
from .smoke import use_first_that_works

_BACKEND = Path(__file__).parent / "backend" / "model.py"
_CACHE_MEGABYTES = 2048


def run_in_process() -> dict[str, Any]:
    """The encoder and the engine, called from here."""
    use_first_that_works()
    set_engine_environment(CHECKPOINTS)
    from bench.contestants import in_process  # vLLM reads its environment then

    runs = Runs("in_process")
    plan = replace(PLAN, on_run=runs.add)
    result = in_process.measure(in_process.NAME, "", CHECKPOINTS.model, plan, make_encoder=GpuModel)
    return runs.values | {"start_seconds": result.start_seconds}


def run_server() -> dict[str, Any]:
    """A real tritonserver, whose encoders run on the GPU; first of all its tokens are compared."""
    use_first_that_works()
    from bench.contestants import triton  # vLLM reads its environment then

    runs = Runs("server")
    # Triton's own backend is in NVIDIA's image alone.
    _command._ONNX_BACKEND = _BACKEND
    started = time.perf_counter()
    log_path = RESULTS / "triton.log"
    with triton.serving(CHECKPOINTS.model, cache_megabytes=_CACHE_MEGABYTES, log_path=log_path) as server:
        runs.values["start_seconds"] = time.perf_counter() - started
        runs.values["parity"] = compare_server(server.grpc_url)
        asyncio.run(triton.ask_all(triton.NAME, server, replace(PLAN, on_run=runs.add)))
    return runs.values


class _Twin(Checkpoints):
    """Its weights are not written: vLLM draws its own."""

    def engine_arguments(self) -> dict[str, Any]:
        return super().engine_arguments() | {"load_format": "dummy", "disable_uvicorn_access_log": True}


def run_vllm_serve() -> dict[str, Any]:
    """A LLaVA-1.5 of the same shapes."""
    use_first_that_works()
    from bench.contestants import vllm_serve  # vLLM reads its environment then

    runs = Runs("vllm_serve")
    plan = replace(PLAN, on_run=runs.add)
    (result,) = vllm_serve.run(_Twin(CHECKPOINTS.folder), plan, log_path=RESULTS / "vllm_serve-engine.log")
    return runs.values | {"start_seconds": result.start_seconds}
