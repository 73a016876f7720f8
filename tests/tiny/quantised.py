"""What quantising the language model costs, computed by vLLM's own kernels on this machine.

    PYTHONPATH=tests python -m tiny.quantised tests/tiny/checkpoint [--num-cases 10]

The checkpoint's language model is written once for each way to store it. Each is read by vLLM in its own process and
asked the exam's first questions, as embeddings that are the same for all (Hugging Face's, in float32, rounded to
bfloat16). KL is the mean divergence, in nats, of the next token's distribution from that of Hugging Face in float32.
"""

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from transformers.utils import logging
from video_llava_export.checkpoint import open_checkpoint
from video_llava_export.language_model import Dtype, find_language_model, write_texts
from video_llava_export.shards import write_shards
from video_llava_export.tokens import load_tokenizer, write_tokenizer

from .answering import MAX_TOKENS, Answerer
from .exam import EXAM_SEED, first_questions

STORED = (Dtype.BFLOAT16, Dtype.INT8, Dtype.INT4)


def write(checkpoint: Path, folder: Path, dtype: Dtype) -> int:
    """Write the language model alone; returns the bytes of its tensors."""
    opened = open_checkpoint(str(checkpoint))
    model = find_language_model(opened.tensors, opened.config, dtype=dtype)
    write_texts(model, checkpoint, folder, opened.config)
    write_shards(model.tensors, folder)
    write_tokenizer(load_tokenizer(checkpoint, opened.config), folder)
    return model.num_bytes


def ask(folder: Path, asked: Path) -> dict[str, Any]:
    """In this process, with vLLM: seconds, tokens, texts, and log probabilities of each first token."""
    from video_llava_server.token_texts import accept_ids_without_token
    from vllm import LLM, SamplingParams

    accept_ids_without_token()

    embeddings = torch.load(asked, weights_only=True)
    engine = LLM(
        model=str(folder),
        dtype="bfloat16",
        enable_prompt_embeds=True,
        enforce_eager=True,
        max_logprobs=-1,
        max_model_len=1024,
        disable_log_stats=True,
        enable_prefix_caching=False,
    )
    prompts: Any = [{"prompt_embeds": embedded} for embedded in embeddings]
    first = engine.generate(prompts, SamplingParams(temperature=0, max_tokens=1, logprobs=-1), use_tqdm=False)
    started = time.perf_counter()
    answers = engine.generate(prompts, SamplingParams(temperature=0, max_tokens=MAX_TOKENS), use_tqdm=False)
    seconds = time.perf_counter() - started
    logprobs = [
        [listed.logprob for _, listed in sorted((output.outputs[0].logprobs or [{}])[0].items())] for output in first
    ]
    return {
        "seconds": seconds,
        "tokens": sum(len(output.outputs[0].token_ids) for output in answers),
        "texts": [output.outputs[0].text.strip() for output in answers],
        "logprobs": logprobs,
    }


def row(name: str, num_bytes: int, found: dict[str, Any], reference: torch.Tensor, expected: Sequence[str]) -> str:
    """One line of the table."""
    logprobs = torch.tensor(found["logprobs"])
    divergence = (reference.exp() * (reference - logprobs)).sum(-1).mean()
    differ = int((logprobs.argmax(-1) != reference.argmax(-1)).sum())
    right = sum(text == answer for text, answer in zip(found["texts"], expected, strict=True))
    return (
        f"{name:<10}{num_bytes / 1e6:>8.2f} MB{found['tokens'] / found['seconds']:>9.0f} tokens/s"
        f"{differ:>6} first tokens differ{right:>7} of {len(expected)} right{divergence:>11.1e} KL"
    )


def command(
    checkpoint: Annotated[Path, typer.Argument(exists=True, file_okay=False, help="Hugging Face files")],
    num_cases: Annotated[int, typer.Option(min=1, help="Questions of each type")] = 10,
    seed: Annotated[int, typer.Option(help="Another seed asks about other scenes")] = EXAM_SEED,
) -> None:
    """Print the table."""
    logging.disable_progress_bar()
    questions = first_questions(num_cases=num_cases, seed=seed)
    reference = Answerer(checkpoint)
    embeddings, logprobs = reference.embed([prompt for prompt, _ in questions])
    with tempfile.TemporaryDirectory() as scratch:
        asked = Path(scratch, "asked.pt")
        torch.save([embedded.to(torch.bfloat16) for embedded in embeddings], asked)
        for dtype in STORED:
            folder, found = Path(scratch, dtype), Path(scratch, f"{dtype}.json")
            num_bytes = write(checkpoint, folder, dtype)
            subprocess.run([sys.executable, "-m", "tiny.quantised", "--ask", folder, asked, found], check=True)
            answers = json.loads(found.read_text(encoding="utf-8"))
            typer.echo(row(dtype, num_bytes, answers, logprobs, [answer for _, answer in questions]))


if __name__ == "__main__":
    if sys.argv[1] == "--ask":
        weights, questions_file, target = map(Path, sys.argv[2:])
        target.write_text(json.dumps(ask(weights, questions_file)), encoding="utf-8")
    else:
        typer.run(command)
