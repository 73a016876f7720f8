"""Which frames of a video the model sees."""

from dataclasses import dataclass
from typing import Generic, TypeVar

T = TypeVar("T")

# Video-LLaVA was trained on eight frames a video.
NUM_FRAMES = 8


def sample_indices(num_frames: int, sampling: str = "arange", *, num_chosen: int = NUM_FRAMES) -> tuple[int, ...]:
    """Return the eight indices `i * num_frames // 8`, in presentation order.

    As Hugging Face's `np.arange(0, n, n / 8).astype(int)`, without rounding errors; or, with "linspace",
    `i * (num_frames - 1) // 7`, from the first to the last. Indices count frames, not time.
    A video of fewer than eight frames shows some twice: three frames give 0, 0, 0, 1, 1, 1, 2, 2.
    """
    if num_frames < 1:
        raise ValueError(f"num_frames must be at least 1, got {num_frames}")
    if sampling == "linspace":
        return tuple(i * (num_frames - 1) // max(1, num_chosen - 1) for i in range(num_chosen))
    return tuple(i * num_frames // num_chosen for i in range(num_chosen))


@dataclass(frozen=True)
class SampledFrame(Generic[T]):
    """One decoded frame.

    Attributes:
        index: Its place in presentation order, from 0.
        pts_seconds: When it is shown, by the file's clock; None if the file does not say.
        picture: What `convert` returned for it.
    """

    index: int
    pts_seconds: float | None
    picture: T


@dataclass(frozen=True)
class SampledVideo(Generic[T]):
    """The eight frames of a video that the model sees.

    Attributes:
        frames: In the order of `sample_indices`; of a short video, some more than once.
        num_frames: Frames of the video.
        duration_seconds: From the first frame to the end of the last; None if frames have no times.
        warnings: Defects of the file.
    """

    frames: tuple[SampledFrame[T], ...]
    num_frames: int
    duration_seconds: float | None
    warnings: tuple[str, ...] = ()
