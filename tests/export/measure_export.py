"""How fast the export writes a checkpoint, beside `cp` of the same bytes, in turn, from a cold cache.

    .venv/bin/python -m video_llava_export.random_checkpoint full --shapes 7b     # 14.7 GB
    .venv/bin/python tests/export/measure_export.py full --scratch DIR            # twice the bytes free

Each round copies the files with weights (`cp`, then `sync`), removes the copy, exports, and exports again with other
options. Before each, the page cache of the checkpoint's files is dropped, as far as nothing else maps them.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

FIRST = ("--id", "first")
AGAIN = {"another profile": ("--profile", "cpu"), "another precision": ("--encoder-precision", "fp16")}


def weights(folder: Path) -> list[Path]:
    """The files of a checkpoint's tensors, in either layout; not towers in folders of their own."""
    return sorted([*folder.glob("*.safetensors"), *folder.glob("*.bin")])


def drop_cache(folder: Path) -> None:
    """Of the files with weights."""
    for path in weights(folder):
        with path.open("rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def copy(checkpoint: Path, target: Path) -> float:
    """Bytes per second of `cp` and `sync`."""
    paths = weights(checkpoint)
    target.mkdir()
    drop_cache(checkpoint)
    start = time.perf_counter()
    subprocess.run(["cp", *paths, target], check=True)
    subprocess.run(["sync", *(target / path.name for path in paths)], check=True)
    seconds = time.perf_counter() - start
    shutil.rmtree(target)
    return sum(path.stat().st_size for path in paths) / seconds


def export(checkpoint: Path, into: Path, *options: str) -> tuple[float, int, str]:
    """Seconds, peak resident memory in bytes, and what it told."""
    drop_cache(checkpoint)
    command = [
        str(Path(sys.executable).with_name("video-llava-export")),
        str(checkpoint),
        "--into",
        str(into),
        *options,
    ]
    start = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        told = process.stderr.read()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(told)
    return time.perf_counter() - start, usage.ru_maxrss * 1024, told


def measure(checkpoint: Path, scratch: Path) -> None:
    """One round."""
    copied = copy(checkpoint, scratch / "copy")
    into = scratch / "models"
    seconds, peak_bytes, told = export(checkpoint, into, *FIRST)
    rate = re.search(r"^vicuna .* ([\d,]+) MB/s$", told, re.MULTILINE)
    assert rate is not None, told
    written = float(rate[1].replace(",", "")) * 1e6
    print(told)
    print(f"cp {copied / 1e6:,.0f} MB/s; language model, written and verified, {written / 1e6:,.0f} MB/s", end="")
    print(f" ({written / copied:.2f} of cp); whole export {seconds:.1f} s, at most {peak_bytes / 1e9:.2f} GB resident")
    for name, options in AGAIN.items():
        again, peak_bytes, told = export(checkpoint, into, "--id", name.replace(" ", "-"), *options)
        print(f"{name}: {again:.1f} s ({again / seconds:.2f}), at most {peak_bytes / 1e9:.2f} GB\n{told}", flush=True)
    shutil.rmtree(into)


def main() -> None:
    """Print every round."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--scratch", type=Path, required=True, help="an empty or new folder on the disk to measure")
    parser.add_argument("--rounds", type=int, default=1)
    arguments = parser.parse_args()
    arguments.scratch.mkdir(exist_ok=True)
    for _ in range(arguments.rounds):
        measure(arguments.checkpoint, arguments.scratch)


if __name__ == "__main__":
    main()
