"""`python -m gpu.limited SECONDS COMMAND…` ends a command at its limit (exit code 124), and at last all that it left.

A step's servers and engines run in sessions of their own and wait when they are asked to stop, with the GPU's memory.
"""

import ctypes
import os
import subprocess
import sys
import time
from contextlib import suppress

import psutil

_PR_SET_CHILD_SUBREAPER = 36
_KILL_SECONDS = 20.0


def main() -> None:
    """Run the command; exit with its code."""
    seconds, *command = sys.argv[1:]
    # A process whose parent has died becomes a child of this one instead of init's.
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1)
    process = subprocess.Popen(command)
    try:
        code = process.wait(timeout=float(seconds))
    except subprocess.TimeoutExpired:
        code = 124
    _kill_all()
    sys.exit(code if code >= 0 else 128 - code)


def _kill_all() -> None:
    deadline = time.monotonic() + _KILL_SECONDS
    while (left := psutil.Process().children(recursive=True)) and time.monotonic() < deadline:
        for process in left:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        # Zombies count as children until they are waited for.
        with suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        time.sleep(0.1)


if __name__ == "__main__":
    main()
