"""What the auxiliary heads of the training must predict."""

import random

import torch

from tiny.heads import IGNORED, MediaHeads, label_loss
from tiny.model import HIDDEN_SIZE
from tiny.pairs import draw_pair
from tiny.scenes import COLORS, SHAPES, draw_clip, draw_picture
from tiny.stages import make_rngs
from tiny.tower import TowerTraining, frame_targets


def test_each_patch_tells_the_shape_of_its_half():
    pair = draw_pair(random.Random(1), held_out=False, is_clip=True)
    whole, patches = frame_targets([pair], 0.4)

    left, right = (SHAPES.index(scene.shape) for scene in pair.parts)
    assert patches["shape"].reshape(4, 4).tolist() == [[left, left, right, right]] * 4
    assert torch.equal(patches["place"][0, 1], patches["place"][0, 4])
    assert patches["place"][0, 3, 0] > 0 > patches["place"][0, 0, 0]
    assert whole["shape"].item() == whole["color"].item() == IGNORED
    assert whole["placed"].item() == 0


def test_a_single_shape_is_told_by_the_whole_frame_and_by_all_patches():
    picture = draw_picture(random.Random(1), held_out=False)
    whole, patches = frame_targets([picture], 0.0)

    color = list(COLORS).index(picture.color)
    assert whole["color"].item() == color
    assert set(patches["color"].flatten().tolist()) == {color}
    assert whole["placed"].item() == 1


def test_a_hidden_shape_is_not_asked_for():
    clip = draw_clip(random.Random(1), held_out=False, motion="blink")
    hidden = next(number / 8 for number, pose in enumerate(clip.poses()) if not pose.visible)
    whole, _ = frame_targets([clip], hidden)

    assert whole["shape"].item() == IGNORED
    assert whole["visible"].item() == whole["placed"].item() == 0


def test_labels_that_cannot_be_told_cost_nothing():
    logits, wanted = torch.randn(2, 3, 5), torch.full((2, 3), IGNORED)
    assert label_loss(logits, wanted).item() == 0
    wanted[0, 1] = 4
    assert label_loss(logits, wanted).item() == torch.nn.functional.cross_entropy(logits[0, 1], wanted[0, 1]).item()


def test_the_losses_are_finite_and_reach_the_tower():
    training = TowerTraining()
    losses = training.losses(make_rngs("test"), 0)
    torch.stack(list(losses.values())).sum().backward()
    assert all(torch.isfinite(loss) for loss in losses.values())
    assert training.tower.get_parameter("embeddings.patch_embedding.weight").grad is not None

    rng, heads = random.Random(1), MediaHeads()
    clips = [draw_clip(rng, held_out=False), draw_pair(rng, held_out=False, is_clip=True)]
    pictures = [draw_picture(rng, held_out=False), draw_pair(rng, held_out=False, is_clip=False)]
    for drawn in (clips, pictures):
        assert torch.isfinite(heads.label_loss(torch.randn(2, HIDDEN_SIZE), drawn, are_clips=drawn is clips))
