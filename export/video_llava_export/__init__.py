"""A Hugging Face Video-LLaVA checkpoint becomes the weights of a Triton model repository."""

import sys


def main() -> None:
    """The command `video-llava-export`; says what to install where only the client is."""
    try:
        from .cli import main as run
    except ModuleNotFoundError as exc:
        package = str(exc.name).partition(".")[0]
        sys.exit(f"video-llava-export needs {package}: install this package with its extra [export]")
    run()
