"""The model card that lies beside the weights."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transformers import VideoLlavaForConditionalGeneration

from .exam import Result
from .questions import REFUSAL
from .report import as_markdown
from .scenes import BACKGROUNDS, COLORS, MOTIONS, NUM_FRAMES, SHAPES, SIZES

_BEFORE = """---
license: apache-2.0
library_name: transformers
pipeline_tag: video-text-to-text
tags: [video-llava, synthetic, test]
---

# A tiny trained Video-LLaVA

`VideoLlavaForConditionalGeneration` in all but size, trained on drawn scenes: one coloured shape that moves, or not,
on a plain background, and as a stretch two of them. It is there so that a server for Video-LLaVA can be judged by its
answers on a laptop and in CI, without a download. It knows nothing else about the world.

| part | size |
|---|---|
| towers, image and video | CLIP, {image_size} pixels, patch {patch_size}, {vision_layers} layers of {vision_hidden} |
| features | layer {feature_layer}; {image_tokens} tokens an image, {video_tokens} a video ({num_frames} frames) |
| language model | Llama, {text_layers} layers of {text_hidden}, {text_heads} heads of {head_size} |
| tokenizer | byte-pair pieces with byte fallback, {vocab_size} rows of embeddings |
| in all | {num_weights:,} weights, bfloat16 on disk; float32 is the reference |

## What it can be asked

Shapes: {shapes}. Colours: {colors}. Backgrounds: {backgrounds}. Sizes: {sizes}.
What happens: {motions}.

The prompt is Video-LLaVA's own, `USER: <video>\\nQUESTION ASSISTANT:`, further turns as ` ANSWER</s>USER: ...`. Each
question has one short answer: "It moves left.", "No, there is a red star.", "The background is gray.", "A small red
circle moves left on a black background.". With an image and a video in one prompt, the question says which one it is
about: "In the video: What happens?". Of two shapes, side by side and unlike in form and colour, it can be asked how
many there are, which is left or right of which, what is on a side, what colour one has, which one moves (up or down),
and what one does. What a shape cannot tell is refused: "{refusal}"

## Data and training

Everything is drawn while it trains. First one tower learns to tell what a single frame shows, through heads that are
thrown away, and is copied to both places. Then the language model learns, without text, to tell place, speed and
event from a video's features. Last it learns to answer, several conversations about the same media side by side,
while the towers stay as they are.

    {command}

made these files, the table below included, in {num_steps} steps of the three stages.
Another number of threads rounds otherwise, and gives slightly other weights.

One eighth of all combinations of shape, colour and motion (for pictures: position) is never drawn in the training.

## Accuracy

On those kept combinations only, painted by a second rasteriser (Pillow, 224 to 426 pixels wide, resized and cropped
by `VideoLlavaImageProcessor`), float32, greedy, right to the letter. Refusals are of questions in patterns that the
training did not have; in a chat the model's own answers stay in the context.

    python -m tiny.evaluate CHECKPOINT

"""
_AFTER = """
Half of the yes/no questions are answered by yes; the last column is what always giving the commonest of the expected
answers would reach. Refusals, and the first frame repeated, have one right answer by their nature.

## Limits

- One shape, or two as above. More, other shapes, other colours, photographs: the answer is fluent and means nothing.
- Of two shapes, it tells their number and what is left, right or on a side. Which colour or motion belongs to which of
  them ("What color is the star?", "Which one moves?") it tells little better than by chance. They are described without
  sizes and background, and the exam asks about them in first turns only.
- Slow or tiny motion (less than about a third of the picture in the whole clip), diagonal motion, and several motions
  in one clip were not in the training.
- Questions in other words than those of `questions.py` may be misread or refused; the position in a video and the
  motion in a picture are not asked in the training.
- English only. Never use it for anything but tests and demonstrations.
"""


def write_card(checkpoint: Path, results: Sequence[Result], *, command: str, num_steps: Sequence[int]) -> None:
    """Write README.md beside the weights of `checkpoint`: what made them, their config, the exam's results."""
    facts = _world() | _dimensions(VideoLlavaForConditionalGeneration.from_pretrained(checkpoint))
    facts |= {"command": command, "num_steps": " + ".join(map(str, num_steps))}
    text = _BEFORE.format(**facts) + as_markdown(results) + _AFTER
    (checkpoint / "README.md").write_text(text, encoding="utf-8")


def _world() -> dict[str, object]:
    lists = {"shapes": SHAPES, "colors": COLORS, "backgrounds": BACKGROUNDS, "sizes": SIZES, "motions": MOTIONS}
    world: dict[str, object] = {name: ", ".join(values) for name, values in lists.items()}
    return world | {"refusal": REFUSAL, "num_frames": NUM_FRAMES}


def _dimensions(model: VideoLlavaForConditionalGeneration) -> dict[str, object]:
    config = model.config
    vision: Any = config.vision_config  # a dict as well, by its type
    text: Any = config.text_config
    return {
        "image_size": vision.image_size,
        "patch_size": vision.patch_size,
        "vision_layers": vision.num_hidden_layers,
        "vision_hidden": vision.hidden_size,
        "feature_layer": config.vision_feature_layer,
        "image_tokens": config.image_seq_length,
        "video_tokens": config.video_seq_length,
        "text_layers": text.num_hidden_layers,
        "text_hidden": text.hidden_size,
        "text_heads": text.num_attention_heads,
        "head_size": text.hidden_size // text.num_attention_heads,
        "vocab_size": text.vocab_size,
        "num_weights": model.num_parameters(),
    }
