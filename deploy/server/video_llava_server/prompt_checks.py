"""Whether a prompt and its media can be answered at all, told before anything expensive runs."""

from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from .errors import InvalidArgument
from .limits import Limits
from .manifest import LANGUAGE_MODEL


class PromptChecker:
    """Tokenizes prompts and holds them against one checkpoint's limits. All methods raise InvalidArgument."""

    def __init__(self, limits: Limits, model_folder: Path) -> None:
        self._limits = limits
        self._tokenizer = Tokenizer.from_file(str(model_folder / LANGUAGE_MODEL / "tokenizer.json"))
        longest_token = max(map(len, self._tokenizer.get_vocab(with_added_tokens=True)))
        self._max_characters = limits.max_model_len * longest_token

    def tokenize(self, text: str) -> list[int]:
        """Return the ids of a prompt that is neither empty nor too long."""
        if not text.strip():
            raise InvalidArgument(
                "text_input is empty: send a prompt such as 'USER: <video>\\nWhat happens? ASSISTANT:'"
            )
        # The tokenizer takes seconds for some megabytes, and everybody else would wait for it.
        if len(text) > self._max_characters:
            raise InvalidArgument(
                f"text_input has {len(text)} characters, in the context of {self._limits.max_model_len} tokens fit "
                f"at most {self._max_characters}: shorten the text"
            )
        return self._tokenizer.encode(text).ids

    def check_length(self, *, num_text: int, num_media: int) -> None:
        """Refuse a prompt whose positions leave none for the answer."""
        if num_text + num_media >= self._limits.max_model_len:
            raise InvalidArgument(
                f"the prompt takes {num_text + num_media} positions ({num_text} of text, {num_media} of media), "
                f"the context holds {self._limits.max_model_len} with the answer: shorten the text or send fewer media"
            )

    def check_media(
        self, text: str, video_frames: np.ndarray | None, image_frames: np.ndarray | None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return frames for both encoders, uint8 [frames, size, size, 3], without frames where a medium is absent."""
        ids = self.tokenize(text)
        limits = self._limits
        videos = self._frames("video_frames", video_frames)
        images = self._frames("image_frames", image_frames)
        if len(videos) % limits.num_frames:
            raise InvalidArgument(
                f"video_frames has {len(videos)} frames, expected a multiple of {limits.num_frames}: "
                f"each video is {limits.num_frames} frames"
            )
        num_videos = len(videos) // limits.num_frames
        _check_placeholders(limits.video_token, ids.count(limits.video_token_id), num_videos, "video")
        _check_placeholders(limits.image_token, ids.count(limits.image_token_id), len(images), "image")
        self.check_length(
            num_text=len(ids) - num_videos - len(images),
            num_media=len(videos) * limits.tokens_per_frame + len(images) * limits.tokens_per_image,
        )
        return videos, images

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


def _check_placeholders(placeholder: str, in_text: int, sent: int, kind: str) -> None:
    if in_text != sent:
        raise InvalidArgument(
            f"text_input has {in_text} {placeholder} placeholder(s) and the request has {sent} {kind}(s): "
            "one placeholder stands for each"
        )
