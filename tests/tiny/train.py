"""Train the checkpoint from nothing: one command, a seed, less than an hour of one core.

    python -m tiny.train --into DIR [--seed 0]

Interrupted, the same command goes on. It ends with the table of `tiny.evaluate`.
"""

import random
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from transformers import GenerationConfig, PreTrainedTokenizerBase, VideoLlavaForConditionalGeneration
from transformers.models.video_llava.image_processing_video_llava import VideoLlavaImageProcessor
from transformers.utils import logging
from video_llava_export.llama_tokenizer import BEGIN, END, PAD

from .answering import Answerer
from .card import write_card
from .conversations import draw_conversation
from .exam import EXAM_SEED, NUM_CASES, sit_exam
from .language import language_stages
from .model import IMAGE_SIZE
from .pairs import draw_pair
from .report import as_text
from .scenes import draw_clip, draw_picture
from .stages import run_stage
from .tokenizer import make_tokenizer
from .tower import tower_stage

# Of the three stages: the tower, sight and answers.
NUM_STEPS = (5000, 300, 1000)
# Rounds of conversations that the tokenizer's pieces are made of.
NUM_TEXTS = 6000


def train(
    folder: Path, *, seed: int = 0, num_steps: tuple[int, int, int] = NUM_STEPS, num_texts: int = NUM_TEXTS
) -> None:
    """Write the checkpoint into `folder`; `num_steps` are those of the three stages, kept in `folder`/stages."""
    stages = folder / "stages"
    stages.mkdir(parents=True, exist_ok=True)
    tokenizer = make_tokenizer(tokenizer_texts(random.Random(seed), num_texts))
    torch.manual_seed(seed)
    tower, tower_steps = tower_stage(num_steps[0])
    run_stage(tower_steps, stages, seed=seed)
    torch.manual_seed(seed + 1)
    training, sight, answers = language_stages(
        tokenizer, tower.tower, num_sight_steps=num_steps[1], num_answer_steps=num_steps[2]
    )
    run_stage(sight, stages, seed=seed)
    run_stage(answers, stages, seed=seed)
    write_checkpoint(training.model, tokenizer, folder)


def write_checkpoint(
    model: VideoLlavaForConditionalGeneration, tokenizer: PreTrainedTokenizerBase, folder: Path
) -> None:
    """The files of a Hugging Face checkpoint, weights as bfloat16."""
    ids = tokenizer.get_vocab()
    model.generation_config = GenerationConfig(bos_token_id=ids[BEGIN], eos_token_id=ids[END], pad_token_id=ids[PAD])
    weights: Any = model
    weights.to(torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    VideoLlavaImageProcessor(
        size={"shortest_edge": IMAGE_SIZE}, crop_size={"height": IMAGE_SIZE, "width": IMAGE_SIZE}
    ).save_pretrained(folder)


def tokenizer_texts(rng: random.Random, num_texts: int) -> Iterator[str]:
    """What the tokenizer's pieces are made of."""
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


app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)


@app.command()
def command(
    into: Annotated[Path, typer.Option(file_okay=False, help="Where to write the checkpoint")],
    seed: Annotated[int, typer.Option(help="Another seed gives another model")] = 0,
    threads: Annotated[int, typer.Option(help="Cores to use")] = 1,
) -> None:
    """Train a tiny Video-LLaVA on drawn shapes."""
    logging.disable_progress_bar()
    torch.set_num_threads(threads)
    train(into, seed=seed)
    results = sit_exam(Answerer(into), num_cases=NUM_CASES, seed=EXAM_SEED)
    write_card(into, results, command=f"python -m tiny.train --into DIR --seed {seed}", num_steps=NUM_STEPS)
    typer.echo(as_text(results))


if __name__ == "__main__":
    sys.exit(app())
