import random
from itertools import product

import pytest

from tiny.scenes import (
    COLORS,
    MOTIONS,
    NUM_FRAMES,
    POSITIONS,
    SHAPES,
    draw_clip,
    draw_picture,
    is_held_out,
)


def clips(num_clips: int = 400, *, held_out: bool = False, motion: str | None = None) -> list:
    rng = random.Random(5)
    return [draw_clip(rng, held_out=held_out, motion=motion) for _ in range(num_clips)]


@pytest.mark.parametrize("held_out", [False, True])
def test_clips_are_of_one_side_of_the_split(held_out):
    for scene in clips(held_out=held_out):
        assert is_held_out(scene.shape, scene.color, MOTIONS.index(scene.motion)) == held_out


@pytest.mark.parametrize("held_out", [False, True])
def test_pictures_are_of_one_side_of_the_split(held_out):
    rng = random.Random(5)
    for scene in (draw_picture(rng, held_out=held_out) for _ in range(400)):
        assert is_held_out(scene.shape, scene.color, POSITIONS.index(scene.position)) == held_out


def test_one_combination_in_eight_is_held_out_and_each_part_is_seen_in_training():
    every = list(product(SHAPES, COLORS, range(len(MOTIONS))))
    kept = [combination for combination in every if is_held_out(*combination)]

    assert len(kept) * 8 == len(every)
    for index, values in enumerate((SHAPES, tuple(COLORS), range(len(MOTIONS)))):
        assert {combination[index] for combination in every if combination not in kept} == set(values)


@pytest.mark.parametrize(
    ("motion", "field", "sign"),
    [
        ("left", "x", -1),
        ("right", "x", 1),
        ("up", "y", -1),
        ("down", "y", 1),
        ("grow", "radius", 1),
        ("shrink", "radius", -1),
    ],
)
def test_a_motion_changes_one_thing_in_one_direction(motion, field, sign):
    for scene in clips(40, motion=motion):
        for name in ("x", "y", "radius"):
            steps = [
                getattr(b, name) - getattr(a, name) for a, b in zip(scene.poses(), scene.poses()[1:], strict=False)
            ]
            assert all(step * sign > 0.01 for step in steps) if name == field else not any(steps)


def test_still_scenes_do_not_change():
    assert all(len(set(scene.poses())) == 1 for scene in clips(40, motion="still"))


def test_a_blinking_shape_is_sometimes_seen_and_sometimes_not():
    assert all({pose.visible for pose in scene.poses()} == {True, False} for scene in clips(40, motion="blink"))


def test_the_color_changes_once():
    for scene in clips(40, motion="change"):
        colors = [pose.color for pose in scene.poses()]
        first = colors.count(scene.color)
        assert colors == [scene.color] * first + [scene.end.color] * (NUM_FRAMES - first)
        assert [pose.color for pose in scene.reversed().poses()] == colors[::-1]
        assert scene.color != scene.end.color


def test_the_shape_is_always_within_the_picture():
    for scene in clips():
        assert all(
            value - 0.6 * pose.radius >= 0 and value + 0.6 * pose.radius <= 1
            for pose in scene.poses()
            for value in (pose.x, pose.y)
        )


@pytest.mark.parametrize(
    ("motion", "backwards"), [("left", "right"), ("down", "up"), ("grow", "shrink"), ("still", "still")]
)
def test_reversed_clips_do_the_opposite(motion, backwards):
    assert clips(1, motion=motion)[0].reversed().motion == backwards


def test_reversed_blinks_are_the_frames_backwards():
    for scene in clips(40, motion="blink"):
        forwards = [pose.visible for pose in scene.poses()]
        assert [pose.visible for pose in scene.reversed().poses()] == forwards[::-1]


def test_a_frozen_clip_shows_the_first_frame_only():
    scene = clips(1, motion="left")[0]
    assert scene.frozen().motion == "still"
    assert set(scene.frozen().poses()) == {scene.pose(0)}
    assert len(scene.frozen().poses()) == NUM_FRAMES


def test_sizes_are_told_apart_clearly_and_not_at_all_while_they_change():
    radii = {"small": [], "large": []}
    for scene in clips():
        if scene.motion in ("grow", "shrink"):
            assert scene.size is None
        else:
            radii[scene.size].append(scene.start.radius)
    assert min(radii["large"]) > 1.4 * max(radii["small"])
