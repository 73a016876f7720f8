"""What quantising costs, computed by this machine's own kernels (vLLM's, and ONNX Runtime's for the encoders).

    PYTHONPATH=tests python -m tiny.quantised tests/tiny/checkpoint [--num-cases 10]
    PYTHONPATH=tests python -m tiny.quantised full --speed --num-layers 4

First: the exam's first questions. Each way to store the language model is read by vLLM in its own process and asked
with embeddings that are the same for all (Hugging Face's, in float32, rounded to bfloat16). Encoders of each precision
give their features to Hugging Face's language model in float32. KL is the mean divergence, in nats, of the next token's
distribution from that of Hugging Face in float32.

Second (`--speed`): prefill and decode of the first layers of a big checkpoint, in turn, round by round; medians.
"""

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import numpy as np
import onnxruntime
import psutil
import torch
import typer
from transformers.utils import logging
from video_llava_export.checkpoint import Checkpoint, open_checkpoint
from video_llava_export.encoder import load_encoder
from video_llava_export.graph import INPUT, Precision, write_graph
from video_llava_export.language_model import write_texts
from video_llava_export.shards import write_shards
from video_llava_export.tokens import load_tokenizer, write_tokenizer

from .answering import MAX_TOKENS, Answerer, Prompt
from .exam import EXAM_SEED, first_questions
from .storing import CONVERTED, PASSED_THROUGH, first_layers, store

WAYS = (*CONVERTED, *PASSED_THROUGH)
# Of the measured speed.
NUM_PROMPTS, PROMPT_TOKENS, ANSWER_TOKENS = 4, 512, 33


@dataclass(frozen=True)
class Expected:
    """The reference's log probabilities of each first token, shape = (questions, vocabulary), and the right answers."""

    logprobs: torch.Tensor
    answers: Sequence[str]

    def judge(self, logprobs: torch.Tensor, texts: Sequence[str]) -> str:
        """First tokens that differ, right answers, divergence."""
        divergence = (self.logprobs.exp() * (self.logprobs - logprobs)).sum(-1).mean()
        differ = int((logprobs.argmax(-1) != self.logprobs.argmax(-1)).sum())
        right = sum(text == answer for text, answer in zip(texts, self.answers, strict=True))
        return f"{differ:>6} first tokens differ{right:>7} of {len(self.answers)} right{divergence:>11.1e} KL"


def write(checkpoint: Checkpoint, folder: Path, way: str, *, num_layers: int | None = None) -> int:
    """Write the language model alone; returns the bytes of its tensors."""
    model = store(checkpoint, way, num_layers=num_layers)
    write_texts(model, checkpoint.parts.generation, folder, first_layers(checkpoint, num_layers).config)
    write_shards(model.tensors, folder)
    write_tokenizer(load_tokenizer(checkpoint.parts.tokenizer, checkpoint.config), folder)
    return model.num_bytes


def _engine(folder: Path) -> Any:
    from video_llava_server.token_texts import accept_ids_without_token
    from vllm import LLM

    accept_ids_without_token()
    return LLM(
        model=str(folder),
        dtype="bfloat16",
        enable_prompt_embeds=True,
        enforce_eager=True,
        max_logprobs=-1,
        max_model_len=1024,
        disable_log_stats=True,
        enable_prefix_caching=False,
        kv_cache_memory_bytes=512 << 20,
    )


def ask(folder: Path, asked: Path) -> dict[str, Any]:
    """In this process, with vLLM: texts, and log probabilities of each first token."""
    from vllm import SamplingParams

    engine = _engine(folder)
    prompts: Any = [{"prompt_embeds": embedded} for embedded in torch.load(asked, weights_only=True)]
    first = engine.generate(prompts, SamplingParams(temperature=0, max_tokens=1, logprobs=-1), use_tqdm=False)
    answers = engine.generate(prompts, SamplingParams(temperature=0, max_tokens=MAX_TOKENS), use_tqdm=False)
    return {
        "texts": [output.outputs[0].text.strip() for output in answers],
        "logprobs": [
            [listed.logprob for _, listed in sorted((output.outputs[0].logprobs or [{}])[0].items())]
            for output in first
        ],
    }


def time_engine(folder: Path) -> dict[str, float]:
    """In this process, with vLLM: prompt tokens/s, tokens/s of a batch of four, bytes of the largest process."""
    from vllm import SamplingParams

    engine = _engine(folder)
    prompts: Any = [
        {"prompt_token_ids": [token % 500 + 10 for token in range(first, first + PROMPT_TOKENS)]}
        for first in range(NUM_PROMPTS)
    ]
    seconds = []
    for num_tokens in (1, 1, ANSWER_TOKENS):  # the first warms up
        options = SamplingParams(temperature=0, min_tokens=num_tokens, max_tokens=num_tokens, ignore_eos=True)
        started = time.perf_counter()
        engine.generate(prompts, options, use_tqdm=False)
        seconds.append(time.perf_counter() - started)
    _, prefill, whole = seconds
    processes = [psutil.Process(), *psutil.Process().children(recursive=True)]
    return {
        "prefill": NUM_PROMPTS * PROMPT_TOKENS / prefill,
        "decode": NUM_PROMPTS * (ANSWER_TOKENS - 1) / (whole - prefill),
        "resident": max(process.memory_info().rss for process in processes),
    }


def _in_its_own_process(what: str, *paths: Path) -> Any:
    with tempfile.NamedTemporaryFile() as found:
        subprocess.run([sys.executable, "-m", "tiny.quantised", what, *paths, found.name], check=True)
        return json.loads(Path(found.name).read_text(encoding="utf-8"))


def examine_language_models(
    checkpoint: Checkpoint, scratch: Path, embeddings: Sequence[torch.Tensor], expected: Expected
) -> None:
    """Print a line for each way to store it."""
    asked = scratch / "asked.pt"
    torch.save([embedded.to(torch.bfloat16) for embedded in embeddings], asked)
    for way in WAYS:
        num_bytes = write(checkpoint, scratch / way, way)
        found = _in_its_own_process("--ask", scratch / way, asked)
        typer.echo(
            f"{way:<20}{num_bytes / 1e6:>8.2f} MB{expected.judge(torch.tensor(found['logprobs']), found['texts'])}"
        )


def examine_encoders(
    checkpoint: Checkpoint, scratch: Path, reference: Answerer, prompts: Sequence[Prompt], expected: Expected
) -> None:
    """Print a line for each precision."""
    config = checkpoint.config
    for precision in Precision:
        sessions, num_bytes = {}, 0
        for medium in ("video", "image"):
            path = scratch / f"{precision}_{medium}.onnx"
            encoder = load_encoder(
                medium, checkpoint.tensors, config, checkpoint.preprocessing, dtype=precision.torch_dtype
            )
            num_bytes += write_graph(
                encoder,
                path,
                medium=medium,
                image_size=config.image_size,
                tokens_per_frame=config.tokens_per_frame if medium == "video" else config.tokens_per_image,
                precision=precision,
            )
            sessions[medium] = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])

        def encode(medium: str, frames: np.ndarray, sessions: Any = sessions) -> torch.Tensor:
            return torch.from_numpy(np.asarray(sessions[medium].run(None, {INPUT: frames})[0]))

        logprobs, texts = reference.answer_with(encode, prompts)
        typer.echo(f"encoders {precision:<11}{num_bytes / 1e6:>8.2f} MB{expected.judge(logprobs, texts)}")


def command(
    checkpoint: Annotated[Path, typer.Argument(exists=True, file_okay=False, help="Hugging Face files")],
    num_cases: Annotated[int, typer.Option(min=1, help="Questions of each type")] = 10,
    seed: Annotated[int, typer.Option(help="Another seed asks about other scenes")] = EXAM_SEED,
    speed: Annotated[bool, typer.Option("--speed", help="Time the language model instead of the exam")] = False,
    num_layers: Annotated[int | None, typer.Option(min=1, help="With --speed: of the language model")] = None,
    rounds: Annotated[int, typer.Option(min=1, help="With --speed")] = 2,
) -> None:
    """Print the table."""
    logging.disable_progress_bar()
    opened = open_checkpoint(str(checkpoint))
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        if speed:
            sizes = {way: write(opened, scratch / way, way, num_layers=num_layers) for way in WAYS}
            found = [{way: _in_its_own_process("--time", scratch / way) for way in WAYS} for _ in range(rounds)]
            for way, num_bytes in sizes.items():
                prefill, decode, resident = (
                    median(one[way][name] for one in found) for name in ("prefill", "decode", "resident")
                )
                typer.echo(
                    f"{way:<20}{num_bytes / 1e6:>9.1f} MB{resident / 1e9:>7.2f} GB resident"
                    f"{prefill:>8.0f} prompt tokens/s{decode:>8.1f} tokens/s"
                )
            return
        questions = first_questions(num_cases=num_cases, seed=seed)
        prompts, answers = [prompt for prompt, _ in questions], [answer for _, answer in questions]
        reference = Answerer(checkpoint)
        embeddings, logprobs = reference.embed(prompts)
        expected = Expected(logprobs, answers)
        examine_language_models(opened, scratch, embeddings, expected)
        examine_encoders(opened, scratch, reference, prompts, expected)


if __name__ == "__main__":
    if sys.argv[1] in ("--ask", "--time"):
        *given, target = map(Path, sys.argv[2:])
        target.write_text(json.dumps((ask if sys.argv[1] == "--ask" else time_engine)(*given)), encoding="utf-8")
    else:
        typer.run(command)
