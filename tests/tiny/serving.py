"""The exam taken by a real server, from real files: MP4 or JPEG -> client -> ensemble -> text."""

import hashlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path

import av
from PIL import Image
from video_llava_client import VideoLlava

from .answering import Answerer, Prompt
from .files import write_clip, write_picture

# Each frame that the exam painted is shown this many times, so that a clip lasts four seconds.
_REPEATS = 4
_NUM_CALLERS = 16
_MAX_TOKENS = 32


@dataclass(frozen=True)
class MediaFolder:
    """Keeps the media of prompts as files, each once; names are made of the pixels."""

    folder: Path

    def clip(self, prompt: Prompt) -> Path | None:
        """The prompt's clip as an MP4."""
        if prompt.clip is None:
            return None
        path = self.folder / f"{_digest(prompt.clip)}.mp4"
        if not path.exists():
            write_clip(path, [frame for frame in prompt.clip for _ in range(_REPEATS)])
        return path

    def picture(self, prompt: Prompt) -> Path | None:
        """The prompt's picture as a JPEG."""
        if prompt.picture is None:
            return None
        path = self.folder / f"{_digest([prompt.picture])}.jpg"
        if not path.exists():
            write_picture(path, prompt.picture)
        return path


@dataclass(frozen=True)
class ServerAnswers:
    """A server that answers the exam's prompts, many at once."""

    client: VideoLlava
    media: MediaFolder

    def answer(self, prompts: Sequence[Prompt]) -> list[str]:
        """One answer for each prompt, stripped."""
        files = [(self.media.clip(prompt), self.media.picture(prompt)) for prompt in prompts]
        with ThreadPoolExecutor(_NUM_CALLERS) as pool:
            return list(pool.map(self._ask, [prompt.text for prompt in prompts], files))

    def _ask(self, text: str, files: tuple[Path | None, Path | None]) -> str:
        clip, picture = files
        images = [picture] if picture else []
        return self.client.ask(prompt=text, video=clip, images=images, max_tokens=_MAX_TOKENS).text.strip()


@dataclass
class ComparedAnswers:
    """The server's answers, each held against the reference's for the same prompt and the same files."""

    server: ServerAnswers
    reference: Answerer
    different: list[tuple[str, str, str]] = field(default_factory=list)
    """prompt, the server's answer, the reference's"""
    num_compared: int = 0

    def answer(self, prompts: Sequence[Prompt]) -> list[str]:
        """The server's answers."""
        answers = self.server.answer(prompts)
        expected = self.reference.answer([self._decoded(prompt) for prompt in prompts])
        self.num_compared += len(prompts)
        self.different += [
            (prompt.text, ours, theirs)
            for prompt, ours, theirs in zip(prompts, answers, expected, strict=True)
            if ours != theirs
        ]
        return answers

    def _decoded(self, prompt: Prompt) -> Prompt:
        clip, picture = self.server.media.clip(prompt), self.server.media.picture(prompt)
        return replace(
            prompt,
            clip=None if clip is None else _decode_like_the_model_card(clip),
            picture=None if picture is None else Image.open(picture).convert("RGB"),
        )


def _decode_like_the_model_card(path: Path) -> list[Image.Image]:
    """Every frame is decoded, then eight are picked."""
    with av.open(str(path)) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    return [Image.fromarray(frames[number * len(frames) // 8]) for number in range(8)]


def _digest(frames: Sequence[Image.Image]) -> str:
    digest = hashlib.sha256()
    for frame in frames:
        digest.update(f"{frame.size}".encode() + frame.tobytes())
    return digest.hexdigest()[:24]
