#!/bin/bash
# pyarrow 26.0.1 writes Parquet pages of 100 MB for values of 1 MB, although `data_page_size` is 1 MB.
#
# Expected: a page ends with the value that takes it past `data_page_size`, 1 MiB by default.
# Real:     its size is looked at after each `write_batch_size` values, 1,024 by default: a hundred videos are one page, and
#           whoever wants the first row reads and unpacks all of them, also by `iter_batches(1)` without `pre_buffer`.
# So what:  who writes media gives write_batch_size=1; a reader's memory is bounded by the writer's pages.
#
# Prints what it saw; exit code 1 if any of it has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet pyarrow==26.0.1 numpy==2.3.5
cat > "$folder/read.py" <<'END'
import random
import sys

import pyarrow as pa
import pyarrow.parquet as pq

folder, write_batch_size = sys.argv[1], int(sys.argv[2])
if sys.argv[3] == "write":
    table = pa.table({"video": [random.Random(n).randbytes(1 << 20) for n in range(100)]})
    pq.write_table(table, f"{folder}/a.parquet", write_batch_size=write_batch_size, use_dictionary=False)
else:
    with pq.ParquetFile(f"{folder}/a.parquet", pre_buffer=False, buffer_size=1 << 20) as file:
        next(file.iter_batches(1, use_threads=False))
    print(pa.default_memory_pool().max_memory() >> 20)
END
for size in 1024 1; do
  "$folder/venv/bin/python" "$folder/read.py" "$folder" $size write
  megabytes=$("$folder/venv/bin/python" "$folder/read.py" "$folder" $size read)
  echo "write_batch_size=$size: the first of 100 rows of 1 MiB takes $megabytes MiB"
  if [ $size = 1024 ]; then [ "$megabytes" -ge 100 ]; else [ "$megabytes" -lt 20 ]; fi
done
