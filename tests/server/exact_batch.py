"""A batch over shards while everything is killed: `make exact-batch`, `make exact-batch ROWS=20000`.

Clips in tars and Parquet on a server of the S3 protocol, four workers, two real servers behind a real Envoy. Ten times
something is killed at random: a worker, a tritonserver, the storage. At the end each row has one record; how often each
was answered is in the servers' request logs.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import psutil

sys.path.insert(0, str(Path(__file__).parents[1]))
from client.storage import S3
from support.certificates import Authority
from support.envoy import free_ports, running_proxy
from support.export import ENGINE_ARGUMENTS, export, make_random_checkpoint
from support.videos import write_video
from support.waiting import wait_until

from client import data_sets

BIN = Path(sys.executable).parent
NUM_SHARDS, NUM_CLIPS, NUM_KILLS = 4, 16, 10
PART_SECONDS = 2


class Command:
    """A process that is started again after a kill."""

    def __init__(self, *command: Any, log: Path) -> None:
        self._command = [str(word) for word in command]
        self._log = log
        self.start()

    def start(self) -> None:
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(self._command, stdout=log, stderr=log)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(60)
        self.start()

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(120)


class Server(Command):
    """`video-llava-serve`, which starts a tritonserver again that is killed."""

    def kill(self) -> None:
        children = psutil.Process(self.process.pid).children(recursive=True)
        next(child for child in children if child.name() == "tritonserver").kill()


def write_rows(folder: Path, num_rows: int) -> None:
    """Write half of the rows as tars, half as Parquet."""
    clips = [write_video(folder / f"{n}.mp4", 10 + n).read_bytes() for n in range(NUM_CLIPS)]
    for kind, first in (("tars", 0), ("parquet", num_rows // 2)):
        (folder / kind).mkdir()
        for start in range(first, first + num_rows // 2, 50):
            found = [
                {"key": f"k{n:05d}", "ask": f"row {n}", "video": {"bytes": clips[n % NUM_CLIPS], "path": f"{n}.mp4"}}
                for n in range(start, min(start + 50, first + num_rows // 2))
            ]
            content = data_sets.tar(data_sets.samples(found)) if kind == "tars" else data_sets.parquet(found)
            (folder / kind / f"{start:05d}.{'tar' if kind == 'tars' else kind}").write_bytes(content)


@contextmanager
def running_servers(folder: Path, model: Path) -> Iterator[tuple[list[Server], Any]]:
    """Start two servers behind the proxy."""
    ports = free_ports("grpc", "http", "metrics")
    addresses = ("127.0.0.2", "127.0.0.3")
    with ExitStack() as stack:
        servers = []
        for address in addresses:
            options = [word for name in ports for word in (f"--{name}-port", ports[name], f"--{name}-address", address)]
            logs = f"{folder / address},texts"
            arguments = ("--engine-arguments", json.dumps(ENGINE_ARGUMENTS), "--request-log", logs)
            command = (BIN / "video-llava-serve", "--model", model, *options, *arguments)
            servers.append(Server(*command, log=folder / f"{address}.log"))
            stack.callback(servers[-1].stop)
        proxy = stack.enter_context(patient_proxy(folder / "proxy", addresses, ports))
        yield servers, proxy


@contextmanager
def patient_proxy(folder: Path, addresses: tuple[str, ...], ports: dict[str, int]) -> Iterator[Any]:
    """Start the proxy once the servers answer, which takes longer than it waits."""
    import urllib.request

    folder.mkdir()
    ends = time.monotonic() + 300
    for address in addresses:
        while True:
            try:
                urllib.request.urlopen(f"http://{address}:{ports['http']}/v2/health/ready", timeout=5).close()
                break
            except OSError:
                assert time.monotonic() < ends, f"{address} is not ready"
                time.sleep(1)
    with running_proxy(folder, Authority("clients"), *addresses, ports=ports) as proxy:
        yield proxy


def num_asked(folder: Path) -> Counter[str]:
    """Count the prompts that the servers logged."""
    logs = [path for address in ("127.0.0.2", "127.0.0.3") for path in (folder / address).glob("*.jsonl*")]
    lines = (json.loads(line) for path in logs for line in path.read_text().splitlines())
    return Counter(line["prompt"] for line in lines if line["outcome"] == "answered")


def run(folder: Path, model: Path, num_rows: int, choices: random.Random) -> int:
    """Run the job, kill, merge and count; return the exit code."""
    with S3(folder / "s3") as storage, running_servers(folder, model) as (servers, proxy):
        os.environ.update(storage.environment)
        write_rows(storage.bucket, num_rows)
        secrets = folder / "proxy"
        tls = ("--tls-ca", secrets / "tls/ca.crt", "--tls-cert", secrets / "client/tls.crt")
        options = (
            "--url",
            proxy.url,
            *tls,
            "--tls-key",
            secrets / "client/tls.key",
            "--id-column",
            "key",
            "--max-tokens",
            4,
        )
        started = time.monotonic()
        num_kills: Counter[str] = Counter()
        for kind in ("tars", "parquet"):
            workers = [
                Command(
                    *(BIN / "video-llava", "batch", f"s3://bucket/{kind}/", f"s3://bucket/out-{kind}/", *options),
                    *("--question-column", "ask", "--shard", f"{n}/{NUM_SHARDS}", "--part-seconds", PART_SECONDS),
                    *("--concurrency", 4, "--max-attempts", 20),
                    log=folder / f"worker-{n}.log",
                )
                for n in range(NUM_SHARDS)
            ]
            for turn in range(NUM_KILLS // 2):
                time.sleep(choices.uniform(2, 12))
                victim = ("worker", "server", "worker", "storage", "worker")[turn]
                pool = {
                    "worker": [w for w in workers if w.process.poll() is None],
                    "server": servers,
                    "storage": [storage],
                }
                if pool[victim]:
                    choices.choice(pool[victim]).kill()
                    num_kills[victim] += 1
            for worker in workers:
                # A run that lost its storage or its server ends, and is started again as a Job does.
                for _ in range(20):
                    if worker.process.wait(1200) == 0:
                        break
                    worker.start()
        seconds = time.monotonic() - started
        records: list[Any] = []
        for kind in ("tars", "parquet"):
            merge = [BIN / "video-llava", "batch", "merge", f"s3://bucket/out-{kind}/", folder / f"{kind}.jsonl"]
            subprocess.run(merge, check=True, timeout=600)
            records += map(json.loads, (folder / f"{kind}.jsonl").read_text().splitlines())
        wait_until(lambda: len(num_asked(folder)) >= num_rows * 9 // 10)
        asked = num_asked(folder)
    ids = Counter(record["id"] for record in records)
    errors = Counter(record["error"]["type"] for record in records if "error" in record)
    found = {
        "rows": num_rows,
        "records": len(records),
        "ids": len(ids),
        "errors": dict(errors),
        "seconds": round(seconds, 1),
        "kills": dict(num_kills),
        "answered by servers": sum(asked.values()),
        "rows by times answered": dict(sorted(Counter(asked.values()).items())),
    }
    print(json.dumps(found, indent=2))
    is_exact = len(records) == len(ids) == num_rows and not errors
    print("exact" if is_exact else "NOT exact")
    return 0 if is_exact and max(asked.values()) <= 2 else 1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--model", type=Path, help="a model folder; made if not given")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = given.model or export(make_random_checkpoint(folder / "checkpoint"), folder)
        code = run(folder, model, given.rows, random.Random(given.seed))
        if code:
            for log in sorted(folder.glob("*.log")):
                print(log.name, log.read_text(errors="replace")[-1500:], sep="\n")
    sys.exit(code)


if __name__ == "__main__":
    main()
