"""What the throw-away heads of the training are told."""

import random

import torch

from tiny.model import HIDDEN_SIZE, NUM_PATCHES
from tiny.pairs import draw_pair
from tiny.scenes import COLORS, SHAPES, draw_clip, draw_picture
from tiny.sight import SightHeads
from tiny.stages import chance
from tiny.tower import IGNORED, TowerTraining, frame_facts, name_loss


def test_each_patch_tells_the_shape_of_its_half():
    pair = draw_pair(random.Random(1), held_out=False, is_clip=True)
    whole, patches = frame_facts([pair], 0.4)

    left, right = (SHAPES.index(scene.shape) for scene in pair.parts)
    assert patches.names["shape"].reshape(4, 4).tolist() == [[left, left, right, right]] * 4
    assert torch.equal(patches.place[0, 1], patches.place[0, 4])
    assert patches.place[0, 3, 0] > 0 > patches.place[0, 0, 0]
    assert whole.names["shape"].item() == whole.names["color"].item() == IGNORED
    assert whole.placed.item() == 0


def test_a_single_shape_is_told_by_the_whole_frame_and_by_all_patches():
    picture = draw_picture(random.Random(1), held_out=False)
    whole, patches = frame_facts([picture], 0.0)

    assert whole.names["color"].item() == list(COLORS).index(picture.color)
    assert set(patches.names["color"].flatten().tolist()) == {list(COLORS).index(picture.color)}
    assert whole.placed.item() == 1


def test_what_is_not_seen_is_not_asked_for():
    clip = draw_clip(random.Random(1), held_out=False, motion="blink")
    hidden = next(number / 8 for number, pose in enumerate(clip.poses()) if not pose.visible)
    whole, _ = frame_facts([clip], hidden)

    assert whole.names["shape"].item() == IGNORED
    assert whole.presence.item() == whole.placed.item() == 0


def test_names_that_cannot_be_told_cost_nothing():
    logits = torch.randn(2, 3, 5, requires_grad=True)
    assert name_loss(logits, torch.full((2, 3), IGNORED)).item() == 0
    right = torch.full((2, 3), IGNORED)
    right[0, 1] = 4
    assert name_loss(logits, right).item() == torch.nn.functional.cross_entropy(logits[0, 1], right[0, 1]).item()


def test_the_heads_of_the_tower_give_finite_losses_and_gradients():
    training = TowerTraining()
    losses = training.losses(chance("test", 0))
    torch.stack(list(losses.values())).sum().backward()

    assert set(losses) == {"frame", "mean", "patch"}
    assert all(torch.isfinite(loss) for loss in losses.values())
    assert training.tower.get_parameter("embeddings.patch_embedding.weight").grad is not None


def test_the_heads_of_the_language_model_take_clips_and_pictures_of_one_and_two():
    rng = random.Random(1)
    heads = SightHeads()
    clips = [draw_clip(rng, held_out=False), draw_pair(rng, held_out=False, is_clip=True)]
    pictures = [draw_picture(rng, held_out=False), draw_pair(rng, held_out=False, is_clip=False)]

    assert torch.isfinite(heads.name_loss(torch.randn(2, HIDDEN_SIZE), clips, are_clips=True))
    assert torch.isfinite(heads.name_loss(torch.randn(2, HIDDEN_SIZE), pictures, are_clips=False))
    assert torch.isfinite(heads.track_loss(torch.randn(2, 8, HIDDEN_SIZE), clips))
    assert NUM_PATCHES == 16
