"""The table of an exam's results."""

from collections import Counter
from collections.abc import Sequence

from .exam import Result

# Groups whose questions are counted together as well.
_TOTALS = {"video and image": ("video", "image"), "two shapes": ("two in a video", "two in an image")}


def table(results: Sequence[Result]) -> str:
    """A row for each kind of question, then the totals.

    The last column is the accuracy of always giving the most common of the expected answers.
    """
    rows: dict[tuple[str, str], list[Result]] = {}
    for result in results:
        rows.setdefault((result.group, result.kind), []).append(result)
    for name, groups in _TOTALS.items():
        rows[name, "all"] = [result for result in results if result.group in groups]
    head = f"{'':<16} {'question':<16} {'n':>5} {'right %':>8} {'commonest %':>12}"
    return "\n".join([head, *(_line(*name, counted) for name, counted in rows.items() if counted)])


def _line(group: str, kind: str, results: Sequence[Result]) -> str:
    right = sum(result.is_right for result in results) / len(results)
    commonest = Counter(result.expected for result in results).most_common(1)[0][1] / len(results)
    return f"{group:<16} {kind:<16} {len(results):>5} {100 * right:>8.1f} {100 * commonest:>12.1f}"
