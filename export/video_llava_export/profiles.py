"""Engine arguments of vLLM, and how many requests to take, for given hardware: `24gb`, `2x24gb` or `cpu`.

One sum, in bytes of one GPU:

    memory = CUDA itself + encoders (first GPU) + weights / GPUs + vLLM's activations + KV cache + spare

The KV cache decides how long prompts may be, and how many run at once. Its size is written, not left to vLLM, which
measures what is free while Triton loads the encoders: another size at each start. `gpu_memory_utilization` is what vLLM
takes, which must be free when it starts, and decides nothing else. On an H100 with 80 GB the sum was measured: beside
weights and KV cache 8.4 GB were taken with 64 videos in flight, 4.6 GB of them when vLLM started (tests/bench).
"""

import math
import re
from dataclasses import dataclass
from typing import Any

from .config import ModelConfig
from .errors import OptionError
from .language_model import LanguageModel

GB = 1e9
CUDA_BYTES = 2.0 * GB  # the driver, contexts of Triton and of vLLM's worker, cuBLAS
ENCODER_WORKSPACE_BYTES = 1.5 * GB  # ONNX Runtime's arena for a batch of eight videos
ACTIVATION_BYTES, LARGE_GPU_ACTIVATION_BYTES = 1.5 * GB, 2.5 * GB  # vLLM's own for a step, with its CUDA graphs
SPARE_SHARE = 0.02
MIN_TEXT_TOKENS = 512  # beside one video: the question and the answer
# Positions that one step of the engine reads, of prompts and running answers together. vLLM's default when embedded,
# 2048, would split every video (2056). Large GPUs: the default of `vllm serve`.
STEP_TOKENS, LARGE_GPU_STEP_TOKENS = 4096, 8192
LARGE_GPU_BYTES = 70 * GB
CPU_CONTEXTS = 4  # prompts of full length that the cache holds on a CPU
# On two cores about as fast as larger steps, with shorter waits for running answers between two steps. Less than 1024
# is slower, and so is vLLM's 2048, which leaves the last 8 positions of a video to a step of their own.
CPU_STEP_TOKENS = 1024
# A drain waits so long for the running requests (Kubernetes: --timeout of video-llava-drain, which a test compares).
# A server takes as many requests as it answers in that time, at so many seconds a token.
DRAIN_SECONDS = 180
ANSWER_TOKENS, GPU_TOKEN_SECONDS, CPU_TOKEN_SECONDS = 256, 0.04, 0.3
MAX_REQUESTS = 256  # vLLM's own largest batch
# vLLM's `auto` and the profile `cpu` both compute in 16 bits, whatever the weights are stored in.
ELEMENT_BYTES, FP8_BYTES = 2, 1


@dataclass(frozen=True)
class Hardware:
    """`num_gpus` GPUs of `gpu_bytes` each; none: the CPU."""

    name: str
    num_gpus: int
    gpu_bytes: float

    @classmethod
    def parse(cls, name: str) -> "Hardware":
        """`cpu`, `24gb` or `2x24gb`; `OptionError` for anything else."""
        if name == "cpu":
            return cls(name, 0, 0.0)
        if not (match := re.fullmatch(r"(?:([1-9]\d*)x)?([1-9]\d*)gb", name.lower())):
            raise OptionError(f"--profile {name} is none; write cpu, or the GPUs and the memory of each: 24gb, 2x24gb")
        return cls(name, int(match[1] or 1), int(match[2]) * GB)


@dataclass(frozen=True)
class Demand:
    """What the exported model takes, in bytes; `video_tokens` and `max_positions` in positions of the prompt."""

    weight_bytes: int
    encoder_bytes: int
    kv_bytes_per_token: int
    embedding_bytes: int
    num_heads: int
    video_tokens: int
    max_positions: int

    @classmethod
    def of(
        cls, model: LanguageModel, config: ModelConfig, *, encoder_bytes: int, kv_cache_dtype: str = "auto"
    ) -> "Demand":
        """From the checkpoint's own numbers and vLLM's `kv_cache_dtype`."""
        text = config.text
        head_width = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
        element_bytes = FP8_BYTES if kv_cache_dtype.startswith("fp8") else ELEMENT_BYTES
        per_layer = 2 * (text.num_key_value_heads or text.num_attention_heads) * head_width
        return cls(
            weight_bytes=model.num_bytes // (2 if model.dtype == "float32" else 1),
            encoder_bytes=encoder_bytes,
            kv_bytes_per_token=text.num_hidden_layers * per_layer * element_bytes,
            embedding_bytes=text.hidden_size * ELEMENT_BYTES,
            num_heads=text.num_attention_heads,
            video_tokens=config.num_frames * config.tokens_per_frame,
            max_positions=text.max_position_embeddings,
        )


@dataclass(frozen=True)
class Profile:
    """vLLM's `arguments`, how many requests the server takes at once, and the reasons, a sentence each."""

    name: str
    arguments: dict[str, Any]
    max_requests: int
    why: tuple[str, ...]


def fit(hardware: Hardware, demand: Demand) -> Profile:
    """The largest context that fits; `OptionError` if not even one video does."""
    return _fit_gpus(hardware, demand) if hardware.num_gpus else _fit_cpu(hardware, demand)


def _fit_cpu(hardware: Hardware, demand: Demand) -> Profile:
    num_tokens = CPU_CONTEXTS * demand.max_positions
    cache_bytes = num_tokens * demand.kv_bytes_per_token
    max_requests = _max_requests(demand, num_tokens, CPU_TOKEN_SECONDS)
    return Profile(
        hardware.name,
        {
            "dtype": "bfloat16",
            "max_model_len": demand.max_positions,
            "kv_cache_memory_bytes": cache_bytes,
            "max_num_seqs": 4 * CPU_CONTEXTS,
            "max_num_batched_tokens": CPU_STEP_TOKENS,
        },
        max_requests,
        (
            "bfloat16: CPUs multiply it fast where they can at all, and it has float32's range",
            f"{_gb(cache_bytes)} of KV cache hold {CPU_CONTEXTS} prompts of {demand.max_positions} positions",
            f"max_num_batched_tokens {CPU_STEP_TOKENS}: a video is read in pieces, other answers go on in between",
            _why_max_requests(max_requests),
        ),
    )


def _fit_gpus(hardware: Hardware, demand: Demand) -> Profile:
    count = hardware.num_gpus
    if demand.num_heads % count:
        raise OptionError(f"--profile {hardware.name}: {demand.num_heads} heads cannot be split over {count} GPUs")
    is_large = hardware.gpu_bytes >= LARGE_GPU_BYTES
    step_tokens = LARGE_GPU_STEP_TOKENS if is_large else STEP_TOKENS
    activation_bytes = LARGE_GPU_ACTIVATION_BYTES if is_large else ACTIVATION_BYTES
    others = CUDA_BYTES + ENCODER_WORKSPACE_BYTES + demand.encoder_bytes + SPARE_SHARE * hardware.gpu_bytes
    vllm_bytes = hardware.gpu_bytes - others
    # Each position that is in the cache may also lie there as an embedding, until its request ends.
    token_bytes = demand.kv_bytes_per_token + count * demand.embedding_bytes
    num_tokens = int((vllm_bytes - demand.weight_bytes / count - activation_bytes) * count // token_bytes)
    cache_bytes = num_tokens * demand.kv_bytes_per_token // count
    share = math.floor(100 * vllm_bytes / hardware.gpu_bytes) / 100
    if num_tokens < demand.video_tokens + MIN_TEXT_TOKENS:
        raise OptionError(
            f"--profile {hardware.name}: weights of {_gb(demand.weight_bytes / count)} a GPU and encoders of "
            f"{_gb(demand.encoder_bytes)} leave room for {max(0, num_tokens)} positions, a video takes "
            f"{demand.video_tokens} and its question and answer {MIN_TEXT_TOKENS}; take more GPUs (2x…), "
            "--encoder-precision fp16, or a quantised checkpoint"
        )
    length = min(demand.max_positions, num_tokens)
    max_requests = _max_requests(demand, num_tokens, GPU_TOKEN_SECONDS)
    return Profile(
        hardware.name,
        {
            "tensor_parallel_size": count,
            "gpu_memory_utilization": share,
            "kv_cache_memory_bytes": cache_bytes,
            "max_model_len": length,
            "max_num_batched_tokens": step_tokens,
        },
        max_requests,
        (
            f"{share:.0%} of each GPU for vLLM: {_gb(others)} are left to the encoders and CUDA",
            f"of that, weights take {_gb(demand.weight_bytes / count)}, activations {_gb(activation_bytes)}, "
            f"the KV cache {_gb(cache_bytes)}: {num_tokens:,} positions",
            f"max_model_len {length}: a video is {demand.video_tokens}; {num_tokens // length} prompts of full length "
            "at a time, more of shorter ones",
            f"max_num_batched_tokens {step_tokens}: a whole video and its question in one step, beside other answers",
            _why_max_requests(max_requests),
        ),
    )


def _max_requests(demand: Demand, num_tokens: int, token_seconds: float) -> int:
    at_once = num_tokens // (demand.video_tokens + MIN_TEXT_TOKENS)
    return min(MAX_REQUESTS, max(1, int(at_once * DRAIN_SECONDS / (ANSWER_TOKENS * token_seconds))))


def _why_max_requests(max_requests: int) -> str:
    return (
        f"max_requests {max_requests}: questions about videos that are answered in {DRAIN_SECONDS} s, at "
        f"{ANSWER_TOKENS} tokens an answer, and {MAX_REQUESTS} at most; more are refused"
    )


def _gb(num_bytes: float) -> str:
    return f"{num_bytes / GB:.1f} GB"
