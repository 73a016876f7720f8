"""A real server of the S3 protocol on this machine."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Self

from support.envoy import free_ports
from support.waiting import wait_until

KEY, SECRET = "test-key", "test-secret-of-s3"


class S3:
    """nanio, used in a `with` block; it has one bucket, a folder of files.

    Attributes:
        bucket: The folder of s3://bucket.
        environment: What pyarrow needs to find it.
    """

    def __init__(self, folder: Path) -> None:
        self.bucket = folder / "data" / "bucket"
        self.bucket.mkdir(parents=True)
        self._log, self._port = folder / "log", free_ports("s3")["s3"]
        self.environment = {
            "AWS_ACCESS_KEY_ID": KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{self._port}",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
            # nanio 0.1.7 keeps the checksums that the SDK appends as if they were content.
            "AWS_REQUEST_CHECKSUM_CALCULATION": "when_required",
        }

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        listen = ("--host", "127.0.0.1", "--port", str(self._port))
        command = [sys.executable, "-m", "nanio", "serve", "--data-dir", self.bucket.parent, *listen]
        names = os.environ | {"NANIO_ACCESS_KEY": KEY, "NANIO_SECRET_KEY": SECRET}
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(command, env=names, stdout=log, stderr=log)
        wait_until(lambda: "Uvicorn running" in self._log.read_text())

    def stop(self) -> None:
        self._process.kill()
        self._process.wait(60)

    def kill(self) -> None:
        """Kill it; start it again."""
        self.stop()
        self.start()
