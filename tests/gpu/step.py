"""One step in a process of its own: `python -m gpu.step NAME [ARGUMENT]` writes NAME-ARGUMENT.json."""

import importlib
import sys

_STEPS = {
    "weights": "weights:run",
    "smoke": "smoke:run",
    "ceilings": "ceilings:run",
    "hugging_face": "hugging_face:run",
    "encoder": "encoder:run",
    "in_process": "servers:run_in_process",
    "server": "servers:run_server",
    "vllm_serve": "servers:run_vllm_serve",
}


def main() -> None:
    """Run the step and write what it returns."""
    name, *arguments = sys.argv[1:]
    # Not at the top: the engine's process imports this file again.
    plan, runs = (importlib.import_module(f"gpu.{module}") for module in ("plan", "runs"))
    plan.use_carried_frames()
    module, _, function = _STEPS[name].partition(":")
    result = getattr(importlib.import_module(f"gpu.{module}"), function)(*arguments)
    runs.write_result("-".join((name, *arguments)), result)


if __name__ == "__main__":
    main()
