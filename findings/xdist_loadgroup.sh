#!/bin/bash
# pytest-xdist 3.8.0 ignores the marker xdist_group under pytest 9.2.0, without a word; under pytest 9.0.2 it obeys.
#
# Expected: with `--dist loadgroup` all tests of one group run in one worker process.
# Real:     under pytest 9.2.0 they are spread over the workers. xdist writes the group into `item._nodeid`, which
#           pytest 9.2 no longer reads.
# So what:  tests that share a server must not rely on groups; here they are separate runs of pytest, by folder.
#
# Prints what it saw; exit code 1 if any of it has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
cd "$folder"
cat > test_group.py <<'END'
import os

import pytest


@pytest.mark.xdist_group("one")
@pytest.mark.parametrize("number", range(8))
def test_where(number):
    with open("workers", "a") as file:
        print(os.environ["PYTEST_XDIST_WORKER"], file=file)
END
num_workers() { # of a run with two
  rm -f workers
  venv/bin/pip install --quiet "pytest==$1" pytest-xdist==3.8.0
  venv/bin/pytest --quiet --numprocesses 2 --dist loadgroup > log
  sort -u workers | wc -l
}
before=$(num_workers 9.0.2)
after=$(num_workers 9.2.0)
echo "workers that ran the group: $before under pytest 9.0.2, $after under pytest 9.2.0"
test "$before" = 1 && test "$after" = 2
