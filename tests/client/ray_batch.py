"""A batch by Ray Data on a cluster of two nodes of this machine, one of which is killed: `make ray-batch`.

The examples of client/examples/ray, by our actors and by Ray's own HTTP processor through the gateway, ask fake servers
about clips in Parquet. When a third is asked, the node without the driver is killed. At the end each row has a record.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import ray  # pyright: ignore[reportMissingImports]
from ray.cluster_utils import Cluster  # pyright: ignore[reportMissingImports]

sys.path.insert(0, str(Path(__file__).parents[1]))
from support.videos import write_video
from video_llava_client.testing import FakeServer, Reply

from client import data_sets

EXAMPLES = Path(__file__).parents[2] / "client/examples/ray"
BIN = Path(sys.executable).parent
NUM_FILES, NUM_ACTORS, ROWS_PER_PART = 16, 2, 40
OBJECT_STORE_BYTES = 100 << 20
SECONDS_PER_ANSWER = 0.5


def example(name: str) -> Any:
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def write_rows(folder: Path, num_rows: int) -> None:
    folder.mkdir()
    rows = data_sets.rows(num_rows, write_video(folder / "clip.mp4", 12).read_bytes())
    (folder / "clip.mp4").unlink()
    for number in range(NUM_FILES):
        (folder / f"{number:02d}.parquet").write_bytes(data_sets.parquet(rows[number::NUM_FILES]))


class Servers:
    """Two fake servers, between which the client balances, and a gateway before them."""

    def __init__(self) -> None:
        reply = Reply("A bike rides.", seconds_per_token=SECONDS_PER_ANSWER / 3)
        self._all = [FakeServer(reply) for _ in range(2)]

    def __enter__(self) -> Servers:
        for server in self._all:
            server.start()
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        self.gateway_url = f"http://127.0.0.1:{port}"
        command = [BIN / "video-llava-gateway", "serve", f"--port={port}", "--url", self.url, "--no-isolated"]
        self._gateway = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        return self

    def __exit__(self, *_: object) -> None:
        self._gateway.terminate()
        self._gateway.wait(60)
        for server in self._all:
            server.stop()

    @property
    def url(self) -> str:
        return ",".join(server.url for server in self._all)

    @property
    def num_asked(self) -> int:
        return sum(len(server.requests) for server in self._all)

    @property
    def num_clients(self) -> int:
        """How many connections have asked the first server."""
        return len({request.peer for request in self._all[0].requests})


class Node:
    """The node that is killed once a third of the rows is asked, and by two actors."""

    def __init__(self, cluster: Cluster, node: Any, is_due: Callable[[], bool]) -> None:
        self._cluster, self._node, self._is_due = cluster, node, is_due
        self.processes: list[str] = []
        self.thread = threading.Thread(target=self._kill_when_due, daemon=True)
        self.thread.start()

    def _kill_when_due(self) -> None:
        while not self._is_due():
            time.sleep(0.05)
        (raylet,) = self._node.all_processes["raylet"]
        running = psutil.Process(raylet.process.pid).children(recursive=True)
        self.processes = sorted(" ".join(each.cmdline()).strip() for each in running)
        self._cluster.remove_node(self._node, allow_graceful=False)


def run(kind: str, folder: Path, servers: Servers, num_rows: int) -> bool:
    """Run an example on two nodes, kill one of them, merge and count; return whether each row has one record."""
    out, into = folder / kind, folder / f"{kind}.jsonl"
    url = servers.url if kind == "ask" else servers.gateway_url
    job = partial(example(kind).main, f"{folder}/clips", str(out), url, NUM_ACTORS, ROWS_PER_PART)
    # Three cores each, whatever the machine has: an actor holds one, and one that is left has to read and to write.
    node = {"num_cpus": 3, "object_store_memory": OBJECT_STORE_BYTES}
    head = {**node, "include_dashboard": False, "_system_config": {"health_check_period_ms": 1000}}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    try:
        worker = cluster.add_node(**node)
        ray.init(address=cluster.address, logging_level="warning", log_to_driver=False)
        ray.data.DataContext.get_current().enable_progress_bars = False
        asked, clients, started = servers.num_asked, servers.num_clients, time.monotonic()
        num_clients = NUM_ACTORS if kind == "ask" else 1
        lost = Node(
            cluster,
            worker,
            lambda: servers.num_asked - asked > num_rows // 3 and servers.num_clients - clients >= num_clients,
        )
        job()
        seconds, asked = time.monotonic() - started, servers.num_asked - asked
        lost.thread.join(10)
        parts = [part.read_bytes().splitlines() for part in out.glob("part-*.jsonl")]
        again = servers.num_asked
        if kind == "ask":
            job()
        again = servers.num_asked - again
    finally:
        ray.shutdown()
        cluster.shutdown()
    command = [BIN / "video-llava", "batch", "merge", out, into]
    subprocess.run(command, check=True, timeout=60)
    records = list(map(json.loads, into.read_text().splitlines()))
    found = {
        "rows": num_rows,
        "records": len(records),
        "ids": len({record["id"] for record in records}),
        "errors": dict(Counter(record["error"]["type"] for record in records if "error" in record)),
        "parts": len(parts),
        "records in parts": sum(map(len, parts)),
        "asked": asked,
        "asked by the same job again": again,
        "seconds": round(seconds, 1),
        "processes of the lost node": lost.processes,
    }
    print(json.dumps({kind: found}, indent=2))
    is_exact = found["records"] == found["ids"] == num_rows and not found["errors"] and not again
    has_lost = any("MapWorker" in name for name in lost.processes)
    print(kind, "exact" if is_exact else "NOT exact", "" if has_lost else "but the lost node had no actor")
    return is_exact and has_lost


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1200)
    parser.add_argument("--only", choices=["ask", "gateway"])
    given = parser.parse_args()
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    with tempfile.TemporaryDirectory() as name, Servers() as servers:
        write_rows(Path(name) / "clips", given.rows)
        kinds = [given.only] if given.only else ["ask", "gateway"]
        sys.exit(not all(run(kind, Path(name), servers, given.rows) for kind in kinds))


if __name__ == "__main__":
    main()
