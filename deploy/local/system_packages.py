"""Install what a fresh Debian or Ubuntu lacks: Python's venv, libpython for Triton's stub, libnuma for vLLM.

Run by make with the system's Python, before there is an environment: the standard library has to do.
"""

import ctypes
import os
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

SUPPORTED = ((3, 11), (3, 12))
VERSION = f"{sys.version_info.major}.{sys.version_info.minor}"


def missing_packages() -> Iterator[str]:
    """Yield the Debian packages that this machine lacks."""
    if find_spec("ensurepip") is None:
        yield f"python{VERSION}-venv"
    if not has_library(f"libpython{VERSION}.so.1.0", folder=sysconfig.get_config_var("LIBDIR")):
        yield f"libpython{VERSION}"
    if not has_library("libnuma.so.1"):
        yield "libnuma1"


def has_library(name: str, *, folder: str | None = None) -> bool:
    """Whether a shared library lies in `folder` or is known to the loader."""
    if folder is not None and Path(folder, name).exists():
        return True
    try:
        ctypes.CDLL(name)
    except OSError:
        return False
    return True


def main() -> None:
    """Install what is missing when root, else say what to run."""
    if sys.version_info[:2] not in SUPPORTED:
        sys.exit(f"this is Python {VERSION}, needed is 3.11 or 3.12: make PYTHON=python3.11 ...")
    packages = list(missing_packages())
    if not packages:
        return
    if os.geteuid() != 0:
        sys.exit(f"first run: sudo apt-get install {' '.join(packages)}")
    subprocess.run(["apt-get", "update", "-qq"], check=True)
    subprocess.run(["apt-get", "install", "-qq", "--yes", "--no-install-recommends", *packages], check=True)


if __name__ == "__main__":
    main()
