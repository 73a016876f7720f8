"""Which frames of a video the model sees."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, TypeVar

T = TypeVar("T")

# Video-LLaVA was trained on eight frames a video, and the server's tensor is 8 frames a video.
NUM_FRAMES = 8


def sample_indices(num_frames: int) -> tuple[int, ...]:
    """Return the indices of the frames that the model sees of a video of `num_frames` frames.

    Always `NUM_FRAMES` of them, `i * num_frames // 8`, in presentation order: Hugging Face's
    `np.arange(0, n, n / 8).astype(int)` without its rounding. Indices count frames, not time. A video of
    fewer than eight frames shows some of them twice: three frames give 0, 0, 0, 1, 1, 1, 2, 2.
    """
    if num_frames < 1:
        raise ValueError(f"num_frames must be at least 1, got {num_frames}")
    return tuple(i * num_frames // NUM_FRAMES for i in range(NUM_FRAMES))


@dataclass(frozen=True)
class SampledFrame(Generic[T]):
    """One decoded frame.

    Attributes:
        index: Its place in presentation order, from 0.
        pts_seconds: When it is shown, by the file's own clock; None where the file does not say.
        picture: What was made of it.
    """

    index: int
    pts_seconds: float | None
    picture: T


@dataclass(frozen=True)
class SampledVideo(Generic[T]):
    """The eight frames of a video that the model sees, and what there is to say of it.

    Attributes:
        frames: In the order of `sample_indices`; a short video has some of them more than once.
        num_frames: How many frames the video has.
        duration_seconds: From the first frame to the end of the last; None where frames carry no times.
        warnings: What the caller should know, a sentence each.
    """

    frames: tuple[SampledFrame[T], ...]
    num_frames: int
    duration_seconds: float | None
    warnings: tuple[str, ...] = ()
