from collections.abc import Sequence
from pathlib import Path

import pytest

from tiny.answering import Prompt
from tiny.evaluate import table
from tiny.exam import Result, sit_exam
from tiny.scenes import NUM_FRAMES


class Parrot:
    """Says the same to everything, and remembers what it was asked."""

    def __init__(self) -> None:
        self.prompts: list[Prompt] = []

    def answer(self, prompts: Sequence[Prompt]) -> list[str]:
        self.prompts += prompts
        return ["It moves left."] * len(prompts)


@pytest.fixture(scope="module")
def parrot():
    return Parrot()


@pytest.fixture(scope="module")
def results(parrot):
    return sit_exam(parrot, num_cases=6, seed=3)


def test_each_prompt_has_the_media_of_its_placeholders(parrot, results):
    assert len(parrot.prompts) == len(results)
    for prompt in parrot.prompts:
        assert prompt.text.count("<video>") == (prompt.clip is not None)
        assert prompt.text.count("<image>") == (prompt.picture is not None)
        assert prompt.clip is None or len(prompt.clip) == NUM_FRAMES


def test_later_turns_hold_the_own_answers(parrot, results):
    third = [prompt.text for prompt in parrot.prompts if prompt.text.count("ASSISTANT:") == 3]
    assert len(third) == sum(result.kind == "turn 3" for result in results) == 12
    assert all(text.count(" It moves left.</s>USER: ") == 2 for text in third)


def test_the_order_of_frames_and_the_number_of_shapes_are_asked(results):
    order = {kind: [r.expected for r in results if r.kind == kind] for kind in ("forwards", "backwards")}
    assert len(order["forwards"]) == 6
    assert all(one != other for one, other in zip(order["forwards"], order["backwards"], strict=True))
    numbers = [result for result in results if result.kind == "number"]
    assert {result.group for result in numbers} == {"two in a video", "two in an image"}
    assert {result.expected for result in numbers} == {"There is one shape.", "There are two shapes."}


def test_the_table_counts_what_is_right_to_the_letter():
    asked = [Result("video", "event", "What happens?", "It grows.", answer) for answer in ("It grows.", "it grows")]
    rows = [line.split() for line in table(asked).splitlines()[1:]]
    assert rows == [["video", "event", "2", "50.0", "100.0"], ["video", "and", "image", "all", "2", "50.0", "100.0"]]


def test_the_readme_has_the_rows_of_the_exam(results):
    readme = (Path(__file__).parent / "README.md").read_text(encoding="utf-8")
    rows = [line[:33] for line in table(results).splitlines()]
    start = readme.index(rows[0])
    assert [line[:33] for line in readme[start:].splitlines()[: len(rows)]] == rows
