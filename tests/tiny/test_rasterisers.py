import random

import numpy as np
import pytest
import torch
from video_llava_client.pixels import fit

from tiny.model import IMAGE_SIZE
from tiny.painter import paint
from tiny.pairs import Drawn, draw_pair
from tiny.raster import rasterise
from tiny.scenes import MOTIONS, NUM_FRAMES, SHAPES, draw_clip


@pytest.mark.parametrize("size", [(224, 224), (320, 240), (180, 320)])
def test_both_draw_the_same(size):
    rng, generator = random.Random(1), torch.Generator().manual_seed(1)
    drawn: list[Drawn] = [draw_clip(rng, held_out=False, motion=motion) for motion in MOTIONS for _ in range(2)]
    drawn += [draw_pair(rng, held_out=False, is_clip=True) for _ in range(6)]
    assert {scene.shape for one in drawn for scene in one.parts} == set(SHAPES)

    trained = rasterise(drawn, IMAGE_SIZE, generator=generator)
    assert (trained.shape[1:], trained.dtype) == ((NUM_FRAMES, IMAGE_SIZE, IMAGE_SIZE, 3), torch.uint8)

    for one, frames in zip(drawn, trained.numpy().astype(int), strict=True):
        painted = paint(one, width=size[0], height=size[1], num_frames=NUM_FRAMES)
        assert {frame.size for frame in painted} == {size}
        fitted = np.stack([np.asarray(fit(frame, size=IMAGE_SIZE)) for frame in painted])
        assert np.abs(frames - fitted).mean() < 5
        # An odd crop moves the picture by half a pixel, which shows at the shape's edges.
        assert np.quantile(np.abs(frames - fitted), 0.95) < 30
