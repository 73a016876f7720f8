"""Other Pythons of this machine, and uv to run them in environments of their own."""

import shutil
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[2]
UV = ROOT / ".uv" / "bin" / "uv"


def find_python(version: str) -> str | None:
    """Return an interpreter that runs; pyenv puts a command for versions into PATH that it then refuses to run."""
    found = [shutil.which(f"python{version}"), *map(str, Path.home().glob(f".pyenv/versions/{version}.*/bin/python"))]
    for path in filter(None, found):
        if subprocess.run([path, "--version"], capture_output=True, check=False, timeout=30).returncode == 0:
            return path
    return None
