"""Takes the exam on a server, from real files: MP4 or JPEG -> client -> ensemble -> text."""

import hashlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import av
from PIL import Image
from video_llava_client import VideoLlava

from .answering import MAX_TOKENS, Answerer, Prompt
from .files import JPEG_QUALITY, write_clip
from .scenes import NUM_FRAMES

# Each painted frame is shown this many times, so that a clip lasts four seconds.
_REPEATS = 4
_NUM_THREADS = 16


@dataclass(frozen=True)
class MediaFolder:
    """The media of prompts as files, each written once; their names are digests of the pixels."""

    folder: Path

    def clip(self, prompt: Prompt) -> Path | None:
        """The prompt's clip as an MP4 file."""
        frames = prompt.clip
        if frames is None:
            return None
        return self._keep(frames, ".mp4", lambda path: write_clip(path, frames, repeats=_REPEATS))

    def picture(self, prompt: Prompt) -> Path | None:
        """The prompt's picture as a JPEG file."""
        picture = prompt.picture
        return picture and self._keep([picture], ".jpg", lambda path: picture.save(path, quality=JPEG_QUALITY))

    def _keep(self, frames: Sequence[Image.Image], suffix: str, write: Callable[[Path], None]) -> Path:
        digest = hashlib.sha256(b"".join(f"{frame.size}".encode() + frame.tobytes() for frame in frames))
        path = self.folder / f"{digest.hexdigest()[:24]}{suffix}"
        if not path.exists():
            write(path)
        return path


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
        return Prompt(prompt.text, clip and _decode(clip), picture and Image.open(picture).convert("RGB"))


def _decode(path: Path) -> list[Image.Image]:
    """Decode every frame, then pick eight, as the model card of Video-LLaVA does."""
    with av.open(str(path)) as container:
        frames = [frame.to_image() for frame in container.decode(video=0)]
    return [frames[number * len(frames) // NUM_FRAMES] for number in range(NUM_FRAMES)]
