import random
from itertools import pairwise, product

import pytest

from tiny.heads import halves
from tiny.pairs import draw_pair
from tiny.scenes import COLORS, MOTIONS, NUM_FRAMES, POSITIONS, SHAPES, draw_clip, draw_picture, is_held_out


def clips(num_clips: int = 400, *, held_out: bool = False, motion: str | None = None) -> list:
    rng = random.Random(5)
    return [draw_clip(rng, held_out=held_out, motion=motion) for _ in range(num_clips)]


def pairs(*, held_out: bool = False, is_clip: bool = True) -> list:
    rng = random.Random(5)
    return [draw_pair(rng, held_out=held_out, is_clip=is_clip) for _ in range(300)]


@pytest.mark.parametrize("held_out", [False, True])
def test_all_shapes_are_on_one_side_of_the_split(held_out):
    rng = random.Random(5)
    both = pairs(held_out=held_out) + pairs(held_out=held_out, is_clip=False)
    for scene in (*clips(held_out=held_out), *(part for pair in both for part in pair.parts)):
        assert is_held_out(scene.shape, scene.color, MOTIONS.index(scene.motion)) == held_out
    for scene in (draw_picture(rng, held_out=held_out) for _ in range(400)):
        assert is_held_out(scene.shape, scene.color, POSITIONS.index(scene.position)) == held_out


def test_one_combination_in_eight_is_held_out_and_each_part_is_seen_in_training():
    every = list(product(SHAPES, COLORS, range(len(MOTIONS))))
    trained = [combination for combination in every if not is_held_out(*combination)]

    assert len(every) - len(trained) == len(every) / 8
    for index, values in enumerate((SHAPES, tuple(COLORS), range(len(MOTIONS)))):
        assert {combination[index] for combination in trained} == set(values)


@pytest.mark.parametrize(
    ("motions", "field"), [(("left", "right"), "x"), (("up", "down"), "y"), (("shrink", "grow"), "radius")]
)
@pytest.mark.parametrize("sign", [-1, 1])
def test_a_motion_changes_one_thing_in_one_direction(motions, field, sign):
    motion, backwards = motions[::sign][::-1]
    for scene in clips(40, motion=motion):
        poses = scene.poses()
        for name in ("x", "y", "radius"):
            steps = [getattr(b, name) - getattr(a, name) for a, b in pairwise(poses)]
            assert all(step * sign > 0.01 for step in steps) if name == field else not any(steps)
        assert scene.reversed().motion == backwards
        assert scene.frozen().motion == "still"
        assert set(scene.frozen().poses()) == {scene.pose(0)}


def test_other_motions_change_nothing_the_visibility_or_the_color():
    assert all(len(set(scene.poses())) == 1 for scene in clips(40, motion="still"))
    assert all({pose.visible for pose in scene.poses()} == {True, False} for scene in clips(40, motion="blink"))
    for scene in clips(40, motion="change"):
        colors = [pose.color for pose in scene.poses()]
        first = colors.count(scene.color)
        assert colors == [scene.color] * first + [scene.end.color] * (NUM_FRAMES - first)
        assert scene.color != scene.end.color


def test_the_shape_is_always_within_the_picture():
    poses = [pose for scene in clips() for pose in scene.poses()]
    assert all(0.6 * pose.radius <= value <= 1 - 0.6 * pose.radius for pose in poses for value in (pose.x, pose.y))


def test_small_and_large_are_far_apart():
    radii = {"small": [], "large": [], None: []}
    for scene in clips():
        radii[scene.size].append(scene.start.radius)
        assert (scene.size is None) == (scene.motion in ("grow", "shrink"))
    assert min(radii["large"]) > 1.4 * max(radii["small"])


def test_a_pair_is_unlike_shares_the_background_and_stays_in_its_halves():
    scene = clips(1)[0]
    assert halves(scene) == (scene, scene)
    for pair in pairs():
        assert halves(pair) == (pair.left, pair.right)
        assert pair.left.shape != pair.right.shape
        assert pair.left.color != pair.right.color
        assert (pair.left.shades, pair.left.shade_angle) == (pair.right.shades, pair.right.shade_angle)
        for left, right in zip(pair.left.poses(), pair.right.poses(), strict=True):
            assert left.x + left.radius <= 0.5 <= right.x - right.radius


def test_in_a_clip_of_a_pair_one_moves_and_in_a_picture_none():
    assert {sum(scene.motion == "still" for scene in pair.parts) for pair in pairs()} == {1}
    assert {sum(scene.motion == "still" for scene in pair.parts) for pair in pairs(is_clip=False)} == {2}
    assert {pair.mover is pair.left for pair in pairs()} == {True, False}
