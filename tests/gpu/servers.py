"""The contestants of `bench` that run on an engine: it in process, this server, `vllm serve`."""

import asyncio
import tempfile
import time
from pathlib import Path
from typing import Any

from bench.checkpoints import Checkpoints
from video_llava_serve import LocalServer, _command

from .encoder import GpuModel
from .parity import compare_server
from .plan import CHECKPOINTS, PATIENCE, PLAN, RESULTS
from .runs import Runs
from .smoke import use_first_that_works

_BACKEND = Path(__file__).parent / "backend" / "model.py"
_CACHE_MEGABYTES = 2048
_START_TIMEOUT_SECONDS = 150.0 * PATIENCE


def run_in_process() -> dict[str, Any]:
    """The encoder and the engine, called from here."""
    use_first_that_works()
    from bench.contestants import in_process  # vLLM reads its environment then

    runs = Runs("in_process")
    runs.record()
    in_process.OnnxModel = GpuModel
    (result,) = in_process.run(CHECKPOINTS, PLAN)
    return runs.to_json() | {"start_seconds": result.start_seconds}


def run_server() -> dict[str, Any]:
    """A real tritonserver, whose encoders run on the GPU; first of all its tokens are compared."""
    use_first_that_works()
    from bench.contestants import triton  # vLLM reads its environment then

    runs = Runs("server")
    runs.record()
    # Triton's own backend is in NVIDIA's image alone.
    _command._ONNX_BACKEND = _BACKEND
    started = time.perf_counter()
    with (
        tempfile.TemporaryDirectory() as overlay,
        LocalServer(
            model=CHECKPOINTS.model,
            overlay=triton._takes_all(Path(overlay)),
            cache_megabytes=_CACHE_MEGABYTES,
            log_path=RESULTS / "triton.log",
            start_timeout_seconds=_START_TIMEOUT_SECONDS,
            report=print,
            **triton.FREE_PORTS,
        ) as server,
    ):
        start_seconds = time.perf_counter() - started
        runs.facts["parity"] = compare_server(server.grpc_url)
        asyncio.run(triton._run_all(triton.NAME, server, PLAN))
    return runs.to_json() | {"start_seconds": start_seconds}


class _Twin(Checkpoints):
    """Its weights are not written: vLLM draws its own."""

    def engine_arguments(self) -> dict[str, Any]:
        return super().engine_arguments() | {"load_format": "dummy", "disable_uvicorn_access_log": True}


def run_vllm_serve() -> dict[str, Any]:
    """A LLaVA-1.5 of the same shapes."""
    use_first_that_works()
    from bench.contestants import vllm_serve  # vLLM reads its environment then

    runs = Runs("vllm_serve")
    runs.record()
    vllm_serve._START_TIMEOUT_SECONDS = _START_TIMEOUT_SECONDS
    (result,) = vllm_serve.run(_Twin(CHECKPOINTS.folder), PLAN)
    return runs.to_json() | {"start_seconds": result.start_seconds}
