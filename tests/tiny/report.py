"""The table of an exam's results, for the terminal and for a model card."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from .exam import Result

# Groups whose questions are counted together as well.
_TOTALS = {"video and image": ("video", "image"), "two shapes": ("two in a video", "two in an image")}


@dataclass(frozen=True)
class Row:
    """One line: how many questions, how many answered right, and how far the commonest answer alone would come."""

    group: str
    kind: str
    num_questions: int
    num_right: int
    num_commonest: int

    @property
    def accuracy(self) -> float:
        """In percent."""
        return 100 * self.num_right / self.num_questions

    @property
    def commonest(self) -> float:
        """Accuracy of always giving the commonest of the expected answers, in percent."""
        return 100 * self.num_commonest / self.num_questions


def rows(results: Sequence[Result]) -> list[Row]:
    """One row for each kind, in the order of the exam, then one for all about one shape, and one for all about two."""
    names = dict.fromkeys((result.group, result.kind) for result in results)
    made = [_row(*name, [r for r in results if (r.group, r.kind) == name]) for name in names]
    totals = {name: [r for r in results if r.group in groups] for name, groups in _TOTALS.items()}
    return made + [_row(name, "all", counted) for name, counted in totals.items() if counted]


def as_text(results: Sequence[Result]) -> str:
    """Aligned columns."""
    lines = [f"{'':<16} {'question':<16} {'n':>5} {'right %':>8} {'commonest %':>12}"]
    lines += [
        f"{row.group:<16} {row.kind:<16} {row.num_questions:>5} {row.accuracy:>8.1f} {row.commonest:>12.1f}"
        for row in rows(results)
    ]
    return "\n".join(lines)


def as_markdown(results: Sequence[Result]) -> str:
    """The same table for a model card."""
    lines = ["| | question | n | right % | always the commonest answer, % |", "|---|---|---|---|---|"]
    lines += [
        f"| {row.group} | {row.kind} | {row.num_questions} | {row.accuracy:.1f} | {row.commonest:.1f} |"
        for row in rows(results)
    ]
    return "\n".join(lines) + "\n"


def wrong_answers(results: Iterable[Result], *, most: int) -> list[str]:
    """Up to `most` wrong answers of each kind, a line each."""
    shown: Counter[tuple[str, str]] = Counter()
    lines = []
    for result in results:
        name = (result.group, result.kind)
        if not result.is_right and shown[name] < most:
            shown[name] += 1
            lines.append(
                f"{result.group}, {result.kind}: {result.question} -> {result.answer!r}, not {result.expected!r}"
            )
    return lines


def _row(group: str, kind: str, results: Sequence[Result]) -> Row:
    commonest = Counter(result.expected for result in results).most_common(1)[0][1]
    return Row(group, kind, len(results), sum(result.is_right for result in results), commonest)
