"""Which frames of a video the model sees."""

from __future__ import annotations

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
