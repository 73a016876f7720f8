"""How tritonserver is called: its backend directory, its flags, its environment."""

import os
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from video_llava_server.repository import ADMIN_HEADER, common_flags

from ._options import ServerOptions
from ._wheel import TritonWheel, check_libnuma, find_libpython

# With what is always closed these are all of Triton's groups but health, which probes ask for without a key.
_CLOSED_WITHOUT_TLS = "metadata,inference,model-config,statistics"
# One of so many requests is traced that are not part of a trace of the caller's: none. (0 turns tracing off.)
_TRACE_RATE = 2**31 - 1
_ONNX_BACKEND = Path(__file__).parent / "backends" / "onnxruntime" / "model.py"


def assemble_backends(wheel: TritonWheel, into: Path) -> None:
    """Write Triton's backend directory: the Python backend of the wheel and our stand-in for ONNX Runtime."""
    # Copies: Triton refuses a backend library that is a link to the outside of its directory.
    python = into / "python"
    python.mkdir(parents=True)
    for part in (*wheel.python_backend, wheel.stub):
        shutil.copy(part, python)
    onnxruntime = into / "onnxruntime"
    onnxruntime.mkdir()
    shutil.copy(_ONNX_BACKEND, onnxruntime)


def server_command(
    wheel: TritonWheel, options: ServerOptions, *, repository: Path, backends: Path, shared_memory_prefix: str
) -> list[str]:
    """Return the whole command line; the ports in `options` must be chosen already.

    `shared_memory_prefix` begins the name of every file of this server in /dev/shm.
    """
    return [
        str(wheel.server),
        *common_flags(repository, admin_key=options.admin_key, has_cache=options.cache_megabytes > 0),
        f"--backend-directory={backends}",
        f"--cache-directory={wheel.caches}",
        # There is no GPU in this server: no pinned memory for copies to one, no search for its metrics.
        "--pinned-memory-pool-byte-size=0",
        "--allow-gpu-metrics=false",
        *_endpoints(options),
        *_tls(options),
        *_tracing(options),
        f"--backend-config=python,shm-region-prefix-name={shared_memory_prefix}",
        *options.triton_flags,
    ]


def _endpoints(options: ServerOptions) -> list[str]:
    return [
        f"--http-address={options.http_address}",
        f"--http-port={options.http_port}",
        f"--grpc-address={options.grpc_address}",
        f"--grpc-port={options.grpc_port}",
        "--allow-metrics=true",
        f"--metrics-address={options.metrics_address}",
        f"--metrics-port={options.metrics_port}",
    ]


def _tls(options: ServerOptions) -> list[str]:
    """TLS. The table in deploy/local/README.md goes through Triton's guide to security item by item."""
    flags: list[str] = []
    if options.tls_certificate is not None and options.tls_key is not None:
        flags += [
            f"--http-restricted-api={_CLOSED_WITHOUT_TLS}:{ADMIN_HEADER}={options.admin_key}",
            "--grpc-use-ssl=true",
            f"--grpc-server-cert={options.tls_certificate.resolve()}",
            f"--grpc-server-key={options.tls_key.resolve()}",
        ]
    if options.tls_client_ca is not None:
        flags += ["--grpc-use-ssl-mutual=true", f"--grpc-root-cert={options.tls_client_ca.resolve()}"]
    return flags


def _tracing(options: ServerOptions) -> list[str]:
    if not options.otlp_endpoint:
        return ["--trace-config=level=OFF"]
    return [
        "--trace-config=mode=opentelemetry",
        "--trace-config=level=TIMESTAMPS",
        f"--trace-config=rate={_TRACE_RATE}",
        f"--trace-config=opentelemetry,url={_traces_url(options.otlp_endpoint)}",
        "--trace-config=opentelemetry,resource=service.name=triton",
    ]


def tracing_environment(otlp_endpoint: str) -> dict[str, str]:
    """Return OpenTelemetry's variables for the engine, which exports its own spans; empty without a collector."""
    if not otlp_endpoint:
        return {}
    return {
        "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": _traces_url(otlp_endpoint),
        "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "http/protobuf",
        "OTEL_SERVICE_NAME": "vllm",
        # As Triton: nothing but what is part of a trace of the caller's.
        "OTEL_TRACES_SAMPLER": "parentbased_always_off",
    }


def _traces_url(otlp_endpoint: str) -> str:
    return f"{otlp_endpoint.rstrip('/')}/v1/traces"


def server_environment(
    wheel: TritonWheel, engine_arguments: Mapping[str, Any], base: Mapping[str, str]
) -> dict[str, str]:
    """Return `base` with what the server and its children need; nothing that `base` sets for vLLM is changed."""
    environment = {**_engine_defaults(engine_arguments), **_without_compiler(base), **base}
    check_libnuma()
    libraries = [str(wheel.libraries), str(find_libpython() or ""), base.get("LD_LIBRARY_PATH", "")]
    environment["LD_LIBRARY_PATH"] = os.pathsep.join(filter(None, libraries))
    # The stub takes its site-packages from the first python3 in PATH. Not resolved: a link into another
    # directory is what makes a virtual environment's interpreter know its environment.
    environment["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), base.get("PATH", os.defpath)])
    # Whatever the user's own is: prompts and answers are UTF-8.
    environment["LANG"] = environment["LC_ALL"] = "C.UTF-8"
    return environment


def _engine_defaults(arguments: Mapping[str, Any]) -> dict[str, str]:
    num_ranks = arguments.get("tensor_parallel_size", 1) * arguments.get("pipeline_parallel_size", 1)
    defaults = {
        # Unless told otherwise vLLM takes one hardware thread of each core and keeps cores back for itself.
        "VLLM_CPU_OMP_THREADS_BIND": core_lists(os.sched_getaffinity(0), num_ranks=num_ranks),
        # How long a waiting OpenMP thread spins before it sleeps: well under a millisecond. GOMP's default is some
        # 10 ms, in which a core does nothing while Triton or the client has the other: on two cores a tenth of the
        # throughput at 16 concurrent requests.
        "GOMP_SPINCOUNT": "20000",
        # The weights are in the repository: nothing to download, nothing to report.
        "HF_HUB_OFFLINE": "1",
        "VLLM_NO_USAGE_STATS": "1",
    }
    # GiB. Unless told otherwise vLLM takes nine tenths of the machine's memory, and refuses to start where less is
    # free. 4 hold one prompt of 4096 positions of the 7B model in float32, two in float16. The variable beats
    # the engine arguments, so it stays unset where they say it.
    if "kv_cache_memory_bytes" not in arguments:
        defaults["VLLM_CPU_KVCACHE_SPACE"] = "4"
    return defaults


def _without_compiler(base: Mapping[str, str]) -> dict[str, str]:
    # Even an eager vLLM compiles a helper for the first request that wants logprobs, and dies of it without g++.
    has_compiler = shutil.which(base.get("CXX", "g++"), path=base.get("PATH", os.defpath)) is not None
    return {} if has_compiler else {"TORCH_COMPILE_DISABLE": "1"}


def core_lists(cores: set[int], *, num_ranks: int) -> str:
    """A share of the cores for each process of the engine, as vLLM writes them: {0, 1, 2} for two ranks is "0-1|2"."""
    ordered, share = sorted(cores), -(-len(cores) // num_ranks)
    # Fewer cores than ranks: they take turns.
    return "|".join(
        core_list(set(ordered[rank * share : (rank + 1) * share]) or {ordered[rank % len(ordered)]})
        for rank in range(num_ranks)
    )


def core_list(cores: set[int]) -> str:
    """Cores as vLLM and taskset write them: {0, 1, 2, 5} is "0-2,5"."""
    ranges: list[list[int]] = []
    for core in sorted(cores):
        if ranges and core == ranges[-1][1] + 1:
            ranges[-1][1] = core
        else:
            ranges.append([core, core])
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in ranges)
