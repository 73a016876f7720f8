"""Whether a prompt and its media can be answered at all, told before anything expensive runs.

The encoders and the engine would notice most of this too, but after the work, or with less to say.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer


class InvalidArgument(Exception):
    """The caller's mistake; `str()` begins with the code, as streamed errors carry none of their own."""

    def __str__(self) -> str:
        return f"INVALID_ARGUMENT: {super().__str__()}"


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What the exported checkpoint takes. Sizes are pixels, counts of tokens are positions of the language model."""

    image_size: int
    num_frames: int
    tokens_per_frame: int
    tokens_per_image: int
    image_token: str
    image_token_id: int
    video_token: str
    video_token_id: int
    max_model_len: int


def read_limits(repository: Path) -> Limits:
    """Read the manifest at the top of a model repository and the engine's arguments.

    Raises FileNotFoundError, with what to do, where no checkpoint was exported into it.
    """
    path = repository / "manifest.json"
    if not path.is_file():
        raise FileNotFoundError(f"no {path}: run video-llava-export CHECKPOINT --into {repository}")
    facts = json.loads(path.read_text(encoding="utf-8"))
    engine = json.loads((repository / "vicuna" / "1" / "model.json").read_text(encoding="utf-8"))
    facts["max_model_len"] = engine.get("max_model_len") or facts["max_position_embeddings"]
    return Limits(**{name: facts[name] for name in Limits.__dataclass_fields__})


class Intake:
    """Checks requests against one checkpoint."""

    def __init__(self, limits: Limits, tokenizer: Tokenizer) -> None:
        self._limits = limits
        self._tokenizer = tokenizer
        longest_token = max(map(len, tokenizer.get_vocab(with_added_tokens=True)))
        self._max_characters = limits.max_model_len * longest_token

    def check(
        self, text: str, video_frames: np.ndarray | None, image_frames: np.ndarray | None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return frames for both encoders, uint8 [frames, size, size, 3], without frames where a medium is absent.

        Raises InvalidArgument.
        """
        if not text.strip():
            raise InvalidArgument(
                "text_input is empty: send a prompt such as 'USER: <video>\\nWhat happens? ASSISTANT:'"
            )
        self._check_characters(text)
        limits = self._limits
        videos = self._frames("video_frames", video_frames)
        images = self._frames("image_frames", image_frames)
        if len(videos) % limits.num_frames:
            raise InvalidArgument(
                f"video_frames has {len(videos)} frames, expected a multiple of {limits.num_frames}: "
                f"each video is {limits.num_frames} frames"
            )
        num_videos = len(videos) // limits.num_frames
        ids = self._tokenizer.encode(text).ids
        self._check_placeholders(limits.video_token, ids.count(limits.video_token_id), num_videos, "video")
        self._check_placeholders(limits.image_token, ids.count(limits.image_token_id), len(images), "image")
        self._check_length(
            num_text=len(ids) - num_videos - len(images),
            num_media=len(videos) * limits.tokens_per_frame + len(images) * limits.tokens_per_image,
        )
        return videos, images

    def _check_characters(self, text: str) -> None:
        # The tokenizer takes seconds for some megabytes, and everybody else would wait for it.
        if len(text) > self._max_characters:
            raise InvalidArgument(
                f"text_input has {len(text)} characters, in the context of {self._limits.max_model_len} tokens fit "
                f"at most {self._max_characters}: shorten the text"
            )

    def _frames(self, name: str, frames: np.ndarray | None) -> np.ndarray:
        size = self._limits.image_size
        if frames is None:
            return np.empty((0, size, size, 3), np.uint8)
        if frames.shape[1:] != (size, size, 3) or frames.dtype != np.uint8:
            raise InvalidArgument(
                f"{name} is {frames.dtype} {list(frames.shape)}, expected uint8 [frames, {size}, {size}, 3]: "
                "RGB, resized and cropped to this model's size"
            )
        return frames

    @staticmethod
    def _check_placeholders(placeholder: str, in_text: int, sent: int, kind: str) -> None:
        if in_text != sent:
            raise InvalidArgument(
                f"text_input has {in_text} {placeholder} placeholder(s) and the request has {sent} {kind}(s): "
                "one placeholder stands for each"
            )

    def _check_length(self, *, num_text: int, num_media: int) -> None:
        if num_text + num_media >= self._limits.max_model_len:
            raise InvalidArgument(
                f"the prompt takes {num_text + num_media} positions ({num_text} of text, {num_media} of media), "
                f"the context holds {self._limits.max_model_len} with the answer: shorten the text or send fewer media"
            )
