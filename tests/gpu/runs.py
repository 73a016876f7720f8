"""The runs of one step, each on the disk as soon as it has ended: a step may be stopped in the middle of the next."""

import json
from collections.abc import Mapping
from typing import Any

from bench.records import Run

from .plan import RESULTS


def write_result(name: str, values: Mapping[str, Any]) -> None:
    """Write `RESULTS`/`name`.json."""
    (RESULTS / f"{name}.json").write_text(json.dumps(values), encoding="utf-8")


class Runs:
    """The runs of the step `name`."""

    def __init__(self, name: str) -> None:
        self._name = name
        self.values: dict[str, Any] = {"runs": []}
        """and whatever else the step finds"""

    def add(self, run: Run) -> None:
        """Keep `run`."""
        self.values["runs"].append(run.to_json())
        write_result(self._name, self.values)
