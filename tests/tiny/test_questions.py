import random
from collections import Counter

import pytest

from tiny.questions import CLIP_KINDS, NUMBER, PICTURE_KINDS, REFUSAL, ask, clip_kinds, describe_clip
from tiny.scenes import COLORS, MOTIONS, SHAPES, draw_clip, draw_picture
from tiny.smalltalk import ask_unknown

DONE = {"left": "moves left", "grow": "grows", "blink": "blinks", "still": "stays still", "change": "changes color"}


def asked_about_clips(kind: str, num: int = 600) -> list:
    rng = random.Random(3)
    pairs = []
    while len(pairs) < num:
        scene = draw_clip(rng, held_out=False)
        if kind in clip_kinds(scene):
            pairs.append((scene, ask(rng, scene, kind, is_clip=True)))
    return pairs


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
    pairs = asked_about_clips(kind)
    assert all(question.answer == expected(scene) for scene, question in pairs)
    assert len({question.text for _, question in pairs}) > 4


@pytest.mark.parametrize("kind", ["direction", "event"])
def test_what_happens_is_told(kind):
    for scene, question in asked_about_clips(kind):
        assert question.answer == f"It {DONE.get(scene.motion, question.answer[3:-1])}."
    assert len({question.answer for _, question in asked_about_clips(kind)}) == len(MOTIONS)


@pytest.mark.parametrize("kind", ["motion yes/no", "existence"])
def test_yes_and_no_are_balanced(kind):
    counts = Counter(question.answer.split(",")[0] for _, question in asked_about_clips(kind))
    assert set(counts) == {"Yes", "No"}
    assert 0.42 < counts["Yes"] / counts.total() < 0.58


def test_existence_is_answered_from_the_scene():
    for scene, question in asked_about_clips("existence"):
        words = question.text.lower().rstrip("?").split()
        named = [word for word in words if word in (*SHAPES, *COLORS)]
        true = all(word in (scene.shape, scene.color) for word in named)
        assert named
        assert question.answer.startswith("Yes" if true else "No")


def test_motion_yes_no_is_answered_from_the_scene():
    for scene, question in asked_about_clips("motion yes/no"):
        if scene.motion in ("left", "right", "up", "down"):
            assert question.answer.startswith("Yes") == (f"move {scene.motion}" in question.text.lower())


def test_a_change_of_color_names_both():
    for scene, question in asked_about_clips("color change"):
        changes = scene.motion == "change"
        assert question.answer == (
            f"It changes from {scene.color} to {scene.end.color}." if changes else f"It stays {scene.color}."
        )


def test_the_color_of_what_changes_it_and_the_size_of_what_grows_are_not_asked():
    rng = random.Random(0)
    assert "color" not in clip_kinds(draw_clip(rng, held_out=False, motion="change"))
    assert "size" not in clip_kinds(draw_clip(rng, held_out=False, motion="grow"))


def test_pictures_have_all_nine_positions():
    rng = random.Random(0)
    pictures = [draw_picture(rng, held_out=False) for _ in range(300)]
    answers = {ask(rng, scene, "position", is_clip=False).answer for scene in pictures}
    assert answers >= {"It is at the top left.", "It is in the center.", "It is at the bottom."}
    assert len(answers) == 9


def test_only_refusals_and_the_number_have_one_answer_for_all():
    rng = random.Random(0)
    for kind in set(PICTURE_KINDS) - {"refusal", NUMBER}:
        answers = [ask(rng, draw_picture(rng, held_out=False), kind, is_clip=False).answer for _ in range(200)]
        assert Counter(answers).most_common(1)[0][1] < 130
    for kind in set(CLIP_KINDS) - {"refusal", NUMBER}:
        assert len({question.answer for _, question in asked_about_clips(kind, 200)}) > 1


def test_the_evaluation_asks_unknown_things_in_patterns_of_its_own():
    rng = random.Random(0)
    trained, kept = ({ask_unknown(rng, held_out=held_out)[:8] for _ in range(300)} for held_out in (False, True))
    assert not {start for start in kept if start.startswith(("Who is", "How old", "Do you"))} & trained
