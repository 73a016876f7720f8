"""Train the checkpoint from random weights: three stages, about half an hour on one core.

    PYTHONPATH=tests python -m tiny.train --into DIR [--seed 0]

It ends with the table of `tiny.evaluate`.
"""

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from transformers import GenerationConfig, PreTrainedTokenizerBase, VideoLlavaForConditionalGeneration
from transformers.models.video_llava.image_processing_video_llava import VideoLlavaImageProcessor
from transformers.utils import logging
from video_llava_export.llama_tokenizer import BEGIN, END, PAD, train_tokenizer

from .answering import Answerer
from .conversations import draw_conversation
from .evaluate import table
from .exam import EXAM_SEED, NUM_CASES, sit_exam
from .language import LanguageTraining
from .model import IMAGE_SIZE
from .pairs import draw_pair
from .scenes import draw_clip, draw_picture
from .stages import run_stage
from .tower import TowerTraining

# Of the three stages: tower, sight and answers.
NUM_STEPS = (5000, 300, 1000)
# Rounds of conversations from which the tokenizer is trained, and its size without the special tokens.
_NUM_TEXTS, _NUM_PIECES = 6000, 760
_PRINTABLE_ASCII = [chr(code) for code in range(33, 127)]


def train(
    folder: Path, *, seed: int = 0, num_steps: tuple[int, int, int] = NUM_STEPS, num_texts: int = _NUM_TEXTS
) -> None:
    """Write the checkpoint into `folder`."""
    texts = _tokenizer_texts(random.Random(seed), num_texts)
    tokenizer = train_tokenizer(texts, num_pieces=_NUM_PIECES, alphabet=_PRINTABLE_ASCII)
    torch.manual_seed(seed)
    tower = TowerTraining()
    run_stage("tower", tower, tower.losses, num_steps[0], seed=seed)
    torch.manual_seed(seed + 1)
    language = LanguageTraining(tokenizer, tower.tower)
    run_stage("sight", language, language.sight_losses, num_steps[1], seed=seed, cooldown=0.0)
    run_stage("answers", language, language.answer_losses, num_steps[2], seed=seed)
    _write_checkpoint(language.model, tokenizer, folder)


def _tokenizer_texts(rng: random.Random, num_texts: int) -> Iterator[str]:
    for _ in range(num_texts):
        clip, picture = draw_clip(rng, held_out=False), draw_picture(rng, held_out=False)
        pair = draw_pair(rng, held_out=False, is_clip=True)
        for conversation in (
            draw_conversation(rng, clip=pair),
            draw_conversation(rng, clip=clip, num_turns=2),
            draw_conversation(rng, picture=picture, num_turns=2),
            draw_conversation(rng, clip=clip, picture=picture),
        ):
            yield conversation.text.replace(conversation.media, "").replace(END, " ")


def _write_checkpoint(
    model: VideoLlavaForConditionalGeneration, tokenizer: PreTrainedTokenizerBase, folder: Path
) -> None:
    """The files of a Hugging Face checkpoint, weights as bfloat16."""
    ids = tokenizer.get_vocab()
    model.generation_config = GenerationConfig(bos_token_id=ids[BEGIN], eos_token_id=ids[END], pad_token_id=ids[PAD])
    weights: Any = model
    weights.to(torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    crop = {"height": IMAGE_SIZE, "width": IMAGE_SIZE}
    VideoLlavaImageProcessor(size={"shortest_edge": IMAGE_SIZE}, crop_size=crop).save_pretrained(folder)


def command(
    into: Annotated[Path, typer.Option(file_okay=False, help="Where to write the checkpoint")],
    seed: Annotated[int, typer.Option(help="Another seed gives another model")] = 0,
    threads: Annotated[int, typer.Option(help="Cores to use; another number rounds differently")] = 1,
    num_steps: Annotated[tuple[int, int, int], typer.Option(help="Steps of the three stages")] = NUM_STEPS,
    num_cases: Annotated[int, typer.Option(min=1, help="Exam questions of each type")] = NUM_CASES,
) -> None:
    """Train a tiny Video-LLaVA on drawn shapes."""
    logging.disable_progress_bar()
    torch.set_num_threads(threads)
    train(into, seed=seed, num_steps=num_steps)
    typer.echo(table(sit_exam(Answerer(into), num_cases=num_cases, seed=EXAM_SEED)))


if __name__ == "__main__":
    typer.run(command)
