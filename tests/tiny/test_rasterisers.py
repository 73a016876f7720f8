import random

import numpy as np
import pytest
import torch
from PIL import Image
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

    trained = rasterise(drawn, IMAGE_SIZE, generator=generator).numpy().astype(int)

    for one, frames in zip(drawn, trained, strict=True):
        painted = paint(one, width=size[0], height=size[1], num_frames=NUM_FRAMES)
        fitted = np.stack([np.asarray(fit(frame, size=IMAGE_SIZE)) for frame in painted])
        assert np.abs(frames - fitted).mean() < 5
        # An odd crop moves the picture by half a pixel, which shows at the shape's edges.
        assert np.quantile(np.abs(frames - fitted), 0.95) < 30


def test_frames_are_uint8_rgb():
    scene = draw_clip(random.Random(0), held_out=False)
    frames = rasterise([scene] * 3, 40, generator=torch.Generator().manual_seed(0))
    assert frames.shape == (3, NUM_FRAMES, 40, 40, 3)
    assert frames.dtype == torch.uint8


def test_the_painter_gives_pictures_of_the_size_and_number_asked_for():
    frames = paint(draw_clip(random.Random(0), held_out=False), width=60, height=40, num_frames=32)
    assert len(frames) == 32
    assert all(isinstance(frame, Image.Image) and frame.size == (60, 40) and frame.mode == "RGB" for frame in frames)
