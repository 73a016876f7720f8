import random
from collections import Counter

import pytest

from tiny.off_topic import ask_off_topic
from tiny.pair_questions import PAIR_CLIP_KINDS, PAIR_PICTURE_KINDS, ask_about_pair, describe_pair
from tiny.pairs import draw_pair
from tiny.questions import CLIP_KINDS, NUMBER, PICTURE_KINDS, REFUSAL, ask, clip_kinds, describe_clip
from tiny.scenes import COLORS, MOTIONS, SHAPES, draw_clip, draw_picture


def about_clips(kind: str, num: int = 600) -> list:
    rng = random.Random(3)
    scenes = (draw_clip(rng, held_out=False) for _ in iter(int, 1))
    fitting = (scene for scene in scenes if kind in clip_kinds(scene))
    return [(scene, ask(rng, scene, kind, is_clip=True)) for scene, _ in zip(fitting, range(num), strict=False)]


def about_pairs(kind: str, *, is_clip: bool = True) -> list:
    rng = random.Random(6)
    pairs = [draw_pair(rng, held_out=False, is_clip=is_clip) for _ in range(300)]
    return [(pair, ask_about_pair(rng, pair, kind, is_clip=is_clip)) for pair in pairs]


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("color", lambda scene: f"It is {scene.color}."),
        ("shape", lambda scene: f"It is a {scene.shape}."),
        ("size", lambda scene: f"It is {scene.size}."),
        ("background", lambda scene: f"The background is {scene.background}."),
        ("describe", describe_clip),
        ("refusal", lambda _: REFUSAL),
    ],
)
def test_answers_tell_the_fact_whatever_the_wording(kind, expected):
    asked = about_clips(kind)
    assert all(question.answer == expected(scene) for scene, question in asked)
    assert len({question.text for _, question in asked}) > 4


@pytest.mark.parametrize("kind", ["direction", "event"])
def test_each_motion_has_an_answer_of_its_own(kind):
    answers = {scene.motion: question.answer for scene, question in about_clips(kind)}
    assert answers["left"] == "It moves left."
    assert answers["change"] == "It changes color."
    assert len(set(answers.values())) == len(answers) == len(MOTIONS)


@pytest.mark.parametrize("kind", ["motion yes/no", "existence", "moves yes/no"])
def test_yes_and_no_are_balanced(kind):
    asked = about_pairs(kind) if kind == "moves yes/no" else about_clips(kind)
    counts = Counter(question.answer.split(",")[0] for _, question in asked)
    assert set(counts) == {"Yes", "No"}
    assert 0.42 < counts["Yes"] / counts.total() < 0.58


def test_yes_and_no_are_answered_from_the_scene():
    for scene, question in about_clips("existence"):
        words = question.text.lower().rstrip("?").split()
        named = [word for word in words if word in (*SHAPES, *COLORS)]
        assert named
        true = all(word in (scene.shape, scene.color) for word in named)
        assert question.answer.startswith("Yes" if true else "No")
    for scene, question in about_clips("motion yes/no"):
        if scene.motion in ("left", "right", "up", "down"):
            assert question.answer.startswith("Yes") == (f"move {scene.motion}" in question.text.lower())


def test_a_change_of_color_names_both():
    for scene, question in about_clips("color change"):
        changed = f"It changes from {scene.color} to {scene.end.color}."
        assert question.answer == (changed if scene.motion == "change" else f"It stays {scene.color}.")


def test_the_color_of_what_changes_it_and_the_size_of_what_grows_are_not_asked():
    rng = random.Random(0)
    assert "color" not in clip_kinds(draw_clip(rng, held_out=False, motion="change"))
    assert "size" not in clip_kinds(draw_clip(rng, held_out=False, motion="grow"))


def test_only_refusals_and_the_number_have_one_answer_for_all():
    rng = random.Random(0)
    for kind in set(PICTURE_KINDS) - {"refusal", NUMBER}:
        answers = [ask(rng, draw_picture(rng, held_out=False), kind, is_clip=False).answer for _ in range(200)]
        assert Counter(answers).most_common(1)[0][1] < 130
        assert kind != "position" or len(set(answers)) == 9
    for kind in set(CLIP_KINDS) - {"refusal", NUMBER}:
        assert len({question.answer for _, question in about_clips(kind, 200)}) > 1


def test_the_exam_asks_off_topic_questions_in_patterns_of_its_own():
    rng = random.Random(0)
    trained, kept = ({ask_off_topic(rng, held_out=held_out)[:8] for _ in range(300)} for held_out in (False, True))
    assert not {start for start in kept if start.startswith(("Who is", "How old", "Do you l"))} & trained


def test_sides_of_a_pair_are_answered_from_the_scene():
    for pair, question in about_pairs("left or right"):
        named = [word for word in question.text.lower().rstrip("?").split() if word in SHAPES]
        shape = named[-1 if "on which" in question.text.lower() else 0]
        asked = next(scene for scene in pair.parts if scene.shape == shape)
        assert question.answer.startswith(f"It is {'left' if asked is pair.left else 'right'} of the ")
        assert asked.shape not in question.answer
    for pair, question in about_pairs("on a side"):
        shown = pair.left if "left" in question.text else pair.right
        assert question.answer.endswith(f" {shown.color} {shown.shape}.")


def test_which_one_of_a_pair_moves_is_answered_from_the_scene():
    for pair, question in about_pairs("which one moves"):
        still = pair.other(pair.mover)
        expected = still if "still" in question.text or "not" in question.text else pair.mover
        assert question.answer.startswith(f"The {expected.color} {expected.shape} ")
        assert ("stays still" in question.answer) == (expected is still)


@pytest.mark.parametrize("is_clip", [False, True])
def test_every_kind_of_question_about_a_pair_is_answered(is_clip):
    for kind in PAIR_CLIP_KINDS if is_clip else PAIR_PICTURE_KINDS:
        answers = {question.answer for _, question in about_pairs(kind, is_clip=is_clip)}
        assert len(answers) > 1 or answers in ({REFUSAL}, {"There are two shapes."})
    for pair, question in about_pairs("describe", is_clip=is_clip):
        assert question.answer == describe_pair(pair, is_clip=is_clip)
        assert all(f"{scene.color} {scene.shape}" in question.answer.lower() for scene in pair.parts)
        assert ("moves" in question.answer) == is_clip
