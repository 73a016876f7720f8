import random

import pytest

from tiny.pair_questions import PAIR_CLIP_KINDS, PAIR_PICTURE_KINDS, ask_about_pair, describe_pair
from tiny.pairs import draw_pair, halves
from tiny.questions import REFUSAL
from tiny.scenes import MOTIONS, POSITIONS, SHAPES, draw_clip, is_held_out


def pairs(num_pairs: int = 300, *, held_out: bool = False, is_clip: bool = True) -> list:
    rng = random.Random(5)
    return [draw_pair(rng, held_out=held_out, is_clip=is_clip) for _ in range(num_pairs)]


def questions(kind: str, *, is_clip: bool = True) -> list:
    rng = random.Random(6)
    return [(pair, ask_about_pair(rng, pair, kind, is_clip=is_clip)) for pair in pairs(is_clip=is_clip)]


@pytest.mark.parametrize("held_out", [False, True])
@pytest.mark.parametrize("is_clip", [False, True])
def test_both_shapes_are_of_one_side_of_the_split(held_out, is_clip):
    for pair in pairs(held_out=held_out, is_clip=is_clip):
        assert all(
            is_held_out(scene.shape, scene.color, MOTIONS.index(scene.motion)) == held_out for scene in pair.parts
        )


def test_the_two_differ_in_form_and_colour_and_share_the_background():
    for pair in pairs():
        assert pair.left.shape != pair.right.shape
        assert pair.left.color != pair.right.color
        assert (pair.left.shades, pair.left.shade_angle) == (pair.right.shades, pair.right.shade_angle)


def test_they_stay_in_their_halves_and_within_the_picture():
    for pair in pairs():
        for left, right in zip(pair.left.poses(), pair.right.poses(), strict=True):
            assert left.x + left.radius <= 0.5 <= right.x - right.radius
            assert all(pose.radius * 0.9 <= pose.y <= 1 - pose.radius * 0.9 for pose in (left, right))


def test_in_a_clip_one_moves_and_in_a_picture_none():
    assert {sum(scene.motion == "still" for scene in pair.parts) for pair in pairs()} == {1}
    assert {sum(scene.motion == "still" for scene in pair.parts) for pair in pairs(is_clip=False)} == {2}
    assert {pair.mover is pair.left for pair in pairs()} == {True, False}


def test_backwards_the_same_one_moves_the_other_way():
    for pair in pairs(20):
        assert {pair.mover.motion, pair.reversed().mover.motion} == {"up", "down"}


def test_a_single_shape_counts_for_both_halves():
    scene = draw_clip(random.Random(0), held_out=False)
    assert halves(scene) == (scene, scene)


def test_left_and_right_are_answered_from_the_scene():
    for pair, question in questions("left or right"):
        named = [word for word in question.text.lower().rstrip("?").split() if word in SHAPES]
        asked = next(
            scene for scene in pair.parts if scene.shape == named[-1 if "on which" in question.text.lower() else 0]
        )
        assert question.answer.startswith(f"It is {'left' if asked is pair.left else 'right'} of the ")
        assert asked.shape not in question.answer


def test_what_is_on_a_side_is_answered_from_the_scene():
    for pair, question in questions("on a side"):
        shown = pair.left if "left" in question.text else pair.right
        assert question.answer.endswith(f" {shown.color} {shown.shape}.")


def test_which_one_moves_is_answered_from_the_scene():
    for pair, question in questions("which one moves"):
        still = next(scene for scene in pair.parts if scene is not pair.mover)
        expected = still if "still" in question.text or "not" in question.text else pair.mover
        assert question.answer.startswith(f"The {expected.color} {expected.shape} ")
        assert ("stays still" in question.answer) == (expected is still)


def test_yes_and_no_are_balanced():
    yes = sum(question.answer.startswith("Yes") for _, question in questions("moves yes/no"))
    assert 0.42 < yes / 300 < 0.58


@pytest.mark.parametrize("is_clip", [False, True])
def test_a_description_names_both(is_clip):
    for pair in pairs(40, is_clip=is_clip):
        text = describe_pair(pair, is_clip=is_clip)
        assert all(f"{scene.color} {scene.shape}" in text.lower() for scene in pair.parts)
        assert ("moves" in text) == is_clip


@pytest.mark.parametrize("is_clip", [False, True])
def test_every_kind_is_answered(is_clip):
    for kind in PAIR_CLIP_KINDS if is_clip else PAIR_PICTURE_KINDS:
        answers = {question.answer for _, question in questions(kind, is_clip=is_clip)}
        assert answers == {"There are two shapes."} if kind == "number" else len(answers) > 1 or answers == {REFUSAL}
        assert not any(position in answer for position in POSITIONS if " " in position for answer in answers)
