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
    module, _, function = _STEPS[name].partition(":")
    result = getattr(importlib.import_module(f"gpu.{module}"), function)(*arguments)
    # Not at the top: the engine's process imports this file again.
    importlib.import_module("gpu.runs").write_result("-".join((name, *arguments)), result)


if __name__ == "__main__":
    main()
