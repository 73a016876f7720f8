"""Which frames of a video the model sees."""

import numpy as np
import pytest
from video_llava_client.sampling import NUM_FRAMES, sample_indices


@pytest.mark.parametrize("num_frames", [1, 3, 7, 8, 9, 100, 250, 14_315, 85_890])
def test_the_indices_are_hugging_faces(num_frames):
    expected = np.arange(0, num_frames, num_frames / NUM_FRAMES).astype(int)
    assert sample_indices(num_frames) == tuple(expected)


def test_no_frames_cannot_be_sampled():
    with pytest.raises(ValueError, match="at least 1, got 0"):
        sample_indices(0)
