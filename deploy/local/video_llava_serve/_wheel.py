"""The parts of Triton inside the wheel `nvidia-pytriton`."""

import ctypes
import importlib.util
import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path

from ._errors import InstallationError

_INSTALL = "`make .venv/.ready` in a checkout, which installs all that serving needs,"


@dataclass(frozen=True)
class TritonWheel:
    """Paths of an unpacked wheel, each checked to exist.

    Raises `InstallationError` when a part is missing.
    """

    root: Path
    """`pytriton/tritonserver`"""
    libraries: Path
    """`nvidia_pytriton.libs`, the shared libraries bundled with the wheel"""

    def __post_init__(self) -> None:
        for path in (self.server, self.libraries, self.caches, self.stub, *self.python_backend):
            if not path.exists():
                raise InstallationError(f"the Triton wheel has no {path}; run {_INSTALL} on a supported Python")

    @classmethod
    def find(cls) -> "TritonWheel":
        """The wheel of this interpreter's environment."""
        spec = importlib.util.find_spec("pytriton")
        if spec is None or spec.origin is None:
            raise InstallationError(f"nvidia-pytriton is not installed; run {_INSTALL}")
        package = Path(spec.origin).parent
        return cls(package / "tritonserver", package.parent / "nvidia_pytriton.libs")

    @property
    def server(self) -> Path:
        """The executable."""
        return self.root / "bin" / "tritonserver"

    @property
    def caches(self) -> Path:
        """Triton's cache directory, with the local response cache."""
        return self.root / "caches"

    @property
    def python_backend(self) -> tuple[Path, ...]:
        """The files of the Python backend that do not depend on Python's version."""
        folder = self.root / "backends" / "python"
        return folder / "libtriton_python.so", folder / "triton_python_backend_utils.py"

    @property
    def stub(self) -> Path:
        """The process that runs a Python model: one build for each minor version of Python."""
        version = f"{sys.version_info.major}.{sys.version_info.minor}"
        return self.root / "python_backend_stubs" / version / "triton_python_backend_stub"


def find_libpython() -> Path | None:
    """The directory of the libpython that the stub is linked with; None when the system's loader finds it.

    Raises `InstallationError` when this interpreter comes without one.
    """
    name = f"libpython{sys.version_info.major}.{sys.version_info.minor}.so.1.0"
    for folder in (sysconfig.get_config_var("LIBDIR"), Path(sys.base_prefix) / "lib"):
        if folder is not None and (Path(folder) / name).exists():
            return Path(folder)
    try:
        ctypes.CDLL(name)
    except OSError as exc:
        raise InstallationError(
            f"Triton's Python backend needs {name}, which {sys.base_prefix} does not have; "
            f"install it (Debian, Ubuntu: apt install {name.split('.so', maxsplit=1)[0]}) or use another Python"
        ) from exc
    return None


def check_libnuma() -> None:
    """Raise `InstallationError` without what vLLM's CPU engine is linked with: itself it fails without naming it."""
    try:
        ctypes.CDLL("libnuma.so.1")
    except OSError as exc:
        raise InstallationError(
            "vLLM's CPU engine needs libnuma.so.1, which this machine does not have; install it (Debian, Ubuntu: "
            "apt install libnuma1)"
        ) from exc
