"""The model card's way: `model.generate` on one video at a time; and the same on batches, padded on the left."""

import os
import time
import warnings
from collections.abc import Iterator, Sequence
from itertools import chain
from typing import Any

import numpy as np
import torch
from transformers import (
    AutoTokenizer,
    StoppingCriteria,
    StoppingCriteriaList,
    VideoLlavaForConditionalGeneration,
)
from transformers.models.video_llava.image_processing_video_llava import VideoLlavaImageProcessor
from transformers.utils import logging
from video_llava_client import build_prompt

from ..checkpoints import Checkpoints
from ..load import Stopwatch
from ..plan import Plan
from ..records import Answered, Result, Run
from ..shapes import VIDEO_TOKENS
from ..usage import Usage
from ..workloads import Question, Workbook, Workload, frames_of

BATCH_SIZE = 4
_TRIAL_TOKENS = 8


class Generator:
    """Hugging Face's model in one dtype."""

    def __init__(self, checkpoints: Checkpoints, dtype: torch.dtype, device: str = "cpu") -> None:
        logging.disable_progress_bar()
        folder = checkpoints.video_llava
        with warnings.catch_warnings(action="ignore"):
            model: Any = VideoLlavaForConditionalGeneration.from_pretrained(folder, dtype=dtype)
            self._model = model.eval().to(device)
            self._tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="left")
            self._processor = VideoLlavaImageProcessor.from_pretrained(folder)

    @torch.no_grad()
    def answer(self, questions: Sequence[Question], num_tokens: int, watches: Sequence[Stopwatch]) -> int:
        """Answer the questions as one batch; returns the positions of the longest prompt."""
        inputs = self._inputs(questions)
        mark = StoppingCriteriaList([_MarkTokens(watches)])
        length = {"max_new_tokens": num_tokens, "min_new_tokens": num_tokens}
        self._model.generate(**inputs, do_sample=False, stopping_criteria=mark, **length)
        return inputs["input_ids"].shape[1]

    def _inputs(self, questions: Sequence[Question]) -> dict[str, torch.Tensor]:
        prompts = [_prompt(question) for question in questions]
        tokens = self._tokenizer(prompts, return_tensors="pt", padding=True)
        inputs = {name: tokens[name].to(self._model.device) for name in ("input_ids", "attention_mask")}
        if clips := [question.clip for question in questions if question.clip is not None]:
            inputs["pixel_values_videos"] = torch.stack([self._pixels(frames_of(clip)) for clip in clips])
        return inputs

    def _pixels(self, frames: np.ndarray) -> torch.Tensor:
        processed = self._processor(images=list(frames), return_tensors="pt")
        return processed["pixel_values_images"].to(self._model.device, self._model.dtype)


class _MarkTokens(StoppingCriteria):
    """Stops nothing; called after each token of the batch."""

    def __init__(self, watches: Sequence[Stopwatch]) -> None:
        self._watches = watches

    def __call__(self, input_ids: torch.Tensor, scores: Any, **_kwargs: Any) -> Any:
        del scores
        for watch in self._watches:
            watch.mark(1)
        return torch.zeros(len(input_ids), dtype=torch.bool)


def _prompt(question: Question) -> str:
    prompt = build_prompt(question.text, num_videos=int(question.clip is not None))
    return prompt.replace("<video>", "<video>" * VIDEO_TOKENS)


def run(checkpoints: Checkpoints, plan: Plan) -> list[Result]:
    """One by one and in batches, in the setting that answered one question fastest."""
    started = time.perf_counter()
    dtype, num_threads = _best_setting(checkpoints)
    torch.set_num_threads(num_threads)
    generator = Generator(checkpoints, dtype)
    seconds = time.perf_counter() - started
    setting = f"{str(dtype).removeprefix('torch.')}, {num_threads} threads"
    return [
        _run_batches("hf_one_by_one", setting, generator, plan, batch_size=1, start_seconds=seconds),
        _run_batches("hf_batched", f"{setting}, batches of {BATCH_SIZE}", generator, plan, BATCH_SIZE, seconds),
    ]


def _best_setting(checkpoints: Checkpoints) -> tuple[torch.dtype, int]:
    seconds: dict[tuple[torch.dtype, int], float] = {}
    all_threads = len(os.sched_getaffinity(0))
    for dtype in (torch.float32, torch.bfloat16):
        generator = Generator(checkpoints, dtype)
        for num_threads in {all_threads, max(1, all_threads // 2)}:
            torch.set_num_threads(num_threads)
            seconds[dtype, num_threads] = _trial(generator)
    return min(seconds, key=seconds.__getitem__)


def _trial(generator: Generator) -> float:
    question = Question("What happens?", 0)
    generator.answer([Question("What happens?", None)], 2, [])
    started = time.perf_counter()
    generator.answer([question], _TRIAL_TOKENS, [])
    return time.perf_counter() - started


def _run_batches(
    name: str, setting: str, generator: Generator, plan: Plan, batch_size: int, start_seconds: float
) -> Result:
    book = Workbook(plan.num_tokens)
    runs = [run_workload(name, generator, book.make(size), batch_size) for size in plan.sizes_of(name)]
    return Result(name, setting, start_seconds, tuple(runs))


def run_workload(name: str, generator: Generator, workload: Workload, batch_size: int) -> Run:
    """All questions in batches of so many."""
    answers: list[Answered] = []
    started = time.perf_counter()
    with Usage(os.getpid()) as usage:
        for batch in _batches(workload, batch_size):
            watches = [Stopwatch(started, turn) for turn, _ in batch]
            positions = generator.answer([question for _, question in batch], workload.num_tokens, watches)
            answers += [
                watch.answered({"input_tokens": positions}, expected_tokens=workload.num_tokens) for watch in watches
            ]
        seconds = time.perf_counter() - started
    return Run(name, workload.name, batch_size, seconds, answers=tuple(answers), **usage.figures())


def _batches(workload: Workload, batch_size: int) -> Iterator[list[tuple[int, Question]]]:
    """(turn, question) in batches; questions of one session may share a batch."""
    questions = list(chain.from_iterable(map(enumerate, workload.sessions)))
    for start in range(0, len(questions), batch_size):
        yield questions[start : start + batch_size]
