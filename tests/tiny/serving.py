"""Takes the exam on a server, from real files: MP4 or JPEG -> client -> ensemble -> text."""

import hashlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path

import av
from PIL import Image
from video_llava_client import VideoLlava

from .answering import MAX_TOKENS, Answerer, Prompt
from .files import JPEG_QUALITY, write_clip

# Each painted frame is shown this many times, so that a clip lasts four seconds.
_REPEATS = 4
_NUM_THREADS = 16


@dataclass(frozen=True)
class MediaFolder:
    """The media of prompts as files, each written once; their names are digests of the pixels."""

    folder: Path

    def clip(self, prompt: Prompt) -> Path | None:
        """The prompt's clip as an MP4 file."""
        if prompt.clip is None:
            return None
        path = self._path(prompt.clip, ".mp4")
        if not path.exists():
            write_clip(path, [frame for frame in prompt.clip for _ in range(_REPEATS)])
        return path

    def picture(self, prompt: Prompt) -> Path | None:
        """The prompt's picture as a JPEG file."""
        if prompt.picture is None:
            return None
        path = self._path([prompt.picture], ".jpg")
        if not path.exists():
            prompt.picture.save(path, quality=JPEG_QUALITY)
        return path

    def _path(self, frames: Sequence[Image.Image], suffix: str) -> Path:
        digest = hashlib.sha256()
        for frame in frames:
            digest.update(f"{frame.size}".encode() + frame.tobytes())
        return self.folder / f"{digest.hexdigest()[:24]}{suffix}"


@dataclass(frozen=True)
class ServerAnswers:
    """The answers of a server, which gets many prompts at once."""

    client: VideoLlava
    media: MediaFolder

    def answer(self, prompts: Sequence[Prompt]) -> list[str]:
        """One answer for each prompt, stripped."""
        clips = [self.media.clip(prompt) for prompt in prompts]
        pictures = [self.media.picture(prompt) for prompt in prompts]
        with ThreadPoolExecutor(_NUM_THREADS) as pool:
            return list(pool.map(self._ask, [prompt.text for prompt in prompts], clips, pictures))

    def _ask(self, text: str, clip: Path | None, picture: Path | None) -> str:
        images = [picture] if picture else []
        return self.client.ask(prompt=text, video=clip, images=images, max_tokens=MAX_TOKENS).text.strip()


@dataclass
class ComparedAnswers:
    """The server's answers, each compared with the reference's for the same prompt and files."""

    server: ServerAnswers
    reference: Answerer
    different: list[tuple[str, str, str]] = field(default_factory=list)
    """prompt, the server's answer, the reference's"""
    num_compared: int = 0

    def answer(self, prompts: Sequence[Prompt]) -> list[str]:
        """The server's answers."""
        answers = self.server.answer(prompts)
        expected = self.reference.answer([self._from_files(prompt) for prompt in prompts])
        self.num_compared += len(prompts)
        compared = zip((prompt.text for prompt in prompts), answers, expected, strict=True)
        self.different += [one for one in compared if one[1] != one[2]]
        return answers

    def _from_files(self, prompt: Prompt) -> Prompt:
        clip, picture = self.server.media.clip(prompt), self.server.media.picture(prompt)
        return replace(
            prompt,
            clip=None if clip is None else _decode_like_the_model_card(clip),
            picture=None if picture is None else Image.open(picture).convert("RGB"),
        )


def _decode_like_the_model_card(path: Path) -> list[Image.Image]:
    """Decode every frame, then pick eight."""
    with av.open(str(path)) as container:
        frames = [frame.to_image() for frame in container.decode(video=0)]
    return [frames[number * len(frames) // 8] for number in range(8)]
