#!/bin/bash
# Python's tarfile (3.11 to 3.13) takes a tar that is cut off after a member for a whole one.
#
# Expected: ReadError, as for a tar that is cut off inside a member: POSIX ends a tar with two blocks of zeros.
# Real:     the members before the cut, and no error. GNU tar has no error either.
# So what:  a shard of a data set that was not written or copied to its end loses rows silently; the last sample may lack
#           its video. A subclass of TarInfo whose `fromtarfile` refuses EmptyHeaderError notices it.
#
# Prints what it saw; exit code 1 if any of it has changed.
set -euo pipefail
python3 - <<'END'
import io
import tarfile

file = io.BytesIO()
with tarfile.open(fileobj=file, mode="w") as tar:
    for number in range(4):
        info = tarfile.TarInfo(f"{number}.txt")
        info.size = 512
        tar.addfile(info, io.BytesIO(bytes([65 + number]) * 512))
whole = file.getvalue()
for num_bytes, expected in ((2048, ["0.txt", "1.txt"]), (2048 + 600, "unexpected end of data")):
    try:
        with tarfile.open(fileobj=io.BytesIO(whole[:num_bytes]), mode="r|") as tar:
            found = [member.name for member in tar if tar.extractfile(member).read()]
    except tarfile.ReadError as exc:
        found = str(exc)
    print(f"the first {num_bytes} of {len(whole)} bytes: {found}")
    assert found == expected, found
END
