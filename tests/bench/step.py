"""One step in a process of its own: `python -m bench.step MODULE PLAN FOLDER RESULT`.

The module's `run(checkpoints, plan)` returns plain values or dataclasses, which are written to RESULT as JSON.
"""

import importlib
import json
import sys
from dataclasses import asdict
from pathlib import Path

from .checkpoints import Checkpoints
from .plan import PLANS


def main() -> None:
    """Run it and write what it returns."""
    module, plan, folder, result = sys.argv[1:]
    step = importlib.import_module(f"bench.{module}")
    measured = step.run(Checkpoints(Path(folder)), PLANS[plan])
    Path(result).write_text(json.dumps(measured, default=asdict), encoding="utf-8")


if __name__ == "__main__":
    main()
