#!/bin/bash
# nanio 0.1.7 (a server of the S3 protocol) stores what today's SDKs send with the marks of its transfer.
#
# Expected: an object of 5 bytes, put by pyarrow's S3FileSystem, has 5 bytes. The SDK sends it in chunks with a checksum behind
#           them (`aws-chunked`, STREAMING-UNSIGNED-PAYLOAD-TRAILER), as all of AWS's SDKs do since 2025.
# Real:     the object is those chunks: b'5\r\nhello\r\n0\r\nx-amz-checksum-crc64nvme:…', and nobody gets an error.
# So what:  AWS_REQUEST_CHECKSUM_CALCULATION=when_required makes the SDK send objects as they are.
#
# Prints what it saw; exit code 1 if any of it has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'kill $(jobs -p) 2>/dev/null; rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet nanio==0.1.7 pyarrow==26.0.1 numpy==2.3.5
export AWS_ACCESS_KEY_ID=a-key AWS_SECRET_ACCESS_KEY=a-secret AWS_EC2_METADATA_DISABLED=true AWS_DEFAULT_REGION=us-east-1
port=$(python3 -c 'import socket; s = socket.create_server(("127.0.0.1", 0)); print(s.getsockname()[1])')
mkdir -p "$folder/data/bucket"
NANIO_ACCESS_KEY=a-key NANIO_SECRET_KEY=a-secret "$folder/venv/bin/python" -m nanio serve \
  --data-dir "$folder/data" --host 127.0.0.1 --port "$port" >"$folder/log" 2>&1 &
until grep -q "Uvicorn running" "$folder/log"; do sleep 0.2; done
export AWS_ENDPOINT_URL=http://127.0.0.1:$port
for calculation in when_supported when_required; do
  AWS_REQUEST_CHECKSUM_CALCULATION=$calculation "$folder/venv/bin/python" - "$calculation" <<'END'
import sys

from pyarrow.fs import FileSystem

system, path = FileSystem.from_uri("s3://bucket/a.txt?region=us-east-1")
with system.open_output_stream(path) as file:
    file.write(b"hello")
found = system.open_input_file(path).read()
print(f"{sys.argv[1]}: {found}")
assert (found == b"hello") is (sys.argv[1] == "when_required")
END
done
