"""The Job of bulk work: its sums and policies; its command in processes that are stopped as a cluster stops pods."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
import yaml
from client.batches import read
from client.storage import S3
from support.kubernetes import BATCH, FOLDER, flags, quantity, render, validate
from video_llava_client.cli.output import BAD_INPUT, TERMINATED
from video_llava_client.testing import FakeServer, Reply

from client import data_sets

COMMAND = Path(sys.executable).with_name("video-llava")
NUM_ROWS, NUM_SHARDS = 400, 4


@pytest.fixture
def job():
    return render(BATCH).get("Job", "video-llava-batch")["spec"]


def blocks():
    readme = (FOLDER / "README.md").read_text(encoding="utf-8").partition("## Bulk work\n")[2].partition("\n## ")[0]
    return re.findall(r"```yaml\n(.*?)```", readme, re.DOTALL)


def render_overlay(path, text):
    """What the README's overlay renders to."""
    overlay = yaml.safe_load(text)
    overlay["resources"] = [os.path.relpath(FOLDER / BATCH, path)]
    (path / "kustomization.yaml").write_text(yaml.safe_dump(overlay), encoding="utf-8")
    manifests = render(str(path))
    validate(manifests)
    return manifests.of("Job")[0]["spec"]


def container_of(job):
    (container,) = job["template"]["spec"]["containers"]
    return container


def action(job, code):
    """What the Job does with a pod that ended with this exit code."""
    for rule in job["podFailurePolicy"]["rules"]:
        codes = rule.get("onExitCodes", {"values": []})
        assert codes.get("operator", "In") == "In"
        if code in codes["values"]:
            return rule["action"]
    return "Count"


def test_each_index_is_a_part_of_the_rows(job, tmp_path):
    for each in (job, render_overlay(tmp_path, blocks()[0])):
        assert each["completionMode"] == "Indexed"
        assert flags(container_of(each)["args"])["shard"] == f"/{each['completions']}"


def test_a_pod_that_was_stopped_is_no_failure_and_one_with_wrong_arguments_ends_the_job(job):
    assert [action(job, code) for code in (BAD_INPUT, TERMINATED, 1, 3, 137)] == ["FailJob", "Ignore", *["Count"] * 3]
    conditions = [rule["onPodConditions"] for rule in job["podFailurePolicy"]["rules"] if "onPodConditions" in rule]
    assert conditions == [[{"type": "DisruptionTarget"}]]
    # These two are what a policy by exit codes needs; no two pods work on one index.
    assert job["template"]["spec"]["restartPolicy"] == "Never"
    assert job["podReplacementPolicy"] == "Failed"
    # Each pod that ends with rows that failed counts: they must be quarantined before no pod is left.
    assert job["backoffLimitPerIndex"] >= int(flags(container_of(job)["args"])["max-attempts"])


def test_time_to_stop_and_memory_are_the_sums_that_they_say(job):
    pod, container = job["template"]["spec"], container_of(job)
    assert pod["terminationGracePeriodSeconds"] >= int(flags(container["args"])["grace"]) + 30
    text = (FOLDER / BATCH / "job.yaml").read_text(encoding="utf-8")
    parts = [float(number) for number in re.findall(r"^ +#\s+([\d.]+)\s+Gi ", text, re.MULTILINE)]
    assert len(parts) == 6
    assert sum(parts) * 2**30 <= quantity(container["resources"]["limits"]["memory"])
    assert int(flags(container["args"])["media-megabytes"]) << 20 == parts[1] * 2**30


def test_the_network_is_closed_but_for_servers_bucket_and_names():
    manifests = render(BATCH)
    ((_, pod),) = manifests.pods()
    policy = manifests.get("NetworkPolicy", "video-llava-batch")["spec"]
    assert policy["podSelector"]["matchLabels"].items() <= pod["metadata"]["labels"].items()
    assert policy["policyTypes"] == ["Ingress", "Egress"]
    assert "ingress" not in policy
    servers, names, bucket = policy["egress"]
    (expression,) = servers["to"][0]["podSelector"]["matchExpressions"]
    for folder in ("overlays/gpu", "overlays/proxy"):
        labels = [pod["metadata"]["labels"]["app.kubernetes.io/name"] for _, pod in render(folder).pods()]
        assert set(labels) <= set(expression["values"])
    assert [port["port"] for rule in (servers, names, bucket) for port in rule["ports"]] == ["grpc", 53, 53, 443]


def test_the_readmes_certificate_goes_with_its_overlay(tmp_path):
    overlay, certificate = blocks()
    container = container_of(render_overlay(tmp_path, overlay + certificate))
    assert container["env"][0] == {"name": "VIDEO_LLAVA_URL", "value": "video-llava-proxy.video-llava:8443"}
    found = flags(container["args"])
    assert {found[name].partition("/client/")[2] for name in ("tls-ca", "tls-cert", "tls-key")} == {
        "ca.crt",
        "tls.crt",
        "tls.key",
    }


def echo(request):
    return Reply(request.prompt.split()[-2], seconds_per_token=0.1)


class Pods:
    """Processes that run the container's command, each with its index."""

    def __init__(self, job, log, environment):
        self._arguments = container_of(job)["args"]
        self._log, self._environment = log, environment

    def start(self, index):
        names = self._environment | {"JOB_COMPLETION_INDEX": str(index)}
        with self._log.open("ab") as log:
            return subprocess.Popen([COMMAND, *self._arguments], env=os.environ | names, stdout=log, stderr=log)


def test_pods_that_are_stopped_ask_no_row_twice(tmp_path):
    """The README's Job with fewer parts: each index is stopped in the middle, and its next pod goes on."""
    overlay = blocks()[0].replace("value: 32", f"value: {NUM_SHARDS}").replace("/32", f"/{NUM_SHARDS}")
    job = render_overlay(tmp_path, overlay)
    with S3(tmp_path / "s3") as storage, FakeServer(script=echo, num_threads=160) as server:
        (storage.bucket / "clips").mkdir()
        for number in range(8):
            found = data_sets.rows(NUM_ROWS)[number::8]
            (storage.bucket / f"clips/{number:03d}.parquet").write_bytes(data_sets.parquet(found))
        pods = Pods(job, tmp_path / "log", storage.environment | {"VIDEO_LLAVA_URL": server.url})
        waiting, codes = list(range(NUM_SHARDS)), []
        while waiting and len(codes) < 3 * NUM_SHARDS:
            index, before = waiting.pop(0), len(server.requests)
            pod = pods.start(index)
            if index not in {stopped for stopped, code in codes if code == TERMINATED}:
                ends = time.monotonic() + 60
                while len(server.requests) < before + 40:
                    assert time.monotonic() < ends, (tmp_path / "log").read_text()
                    time.sleep(0.01)
                pod.send_signal(signal.SIGTERM)
            codes.append((index, pod.wait(60)))
            if action(job, codes[-1][1]) == "Ignore":
                waiting.append(index)
        command = [COMMAND, "batch", "merge", container_of(job)["args"][2], tmp_path / "all.jsonl"]
        subprocess.run(command, check=True, timeout=60, env=os.environ | storage.environment)
        status = subprocess.run(
            [COMMAND, "batch", "status", "--json", container_of(job)["args"][2]],
            check=True,
            timeout=60,
            env=os.environ | storage.environment,
            capture_output=True,
        )
        asked = Counter(request.prompt for request in server.requests)
    assert codes == [(index, code) for code in (TERMINATED, 0) for index in range(NUM_SHARDS)]
    assert (len(asked), max(asked.values())) == (NUM_ROWS, 1)
    records = read(tmp_path / "all.jsonl")
    assert sorted(record["id"] for record in records) == [row["key"] for row in data_sets.rows(NUM_ROWS)]
    assert all(record["text"] == f"q{int(record['id'][1:])}?" for record in records)
    assert all(shard["is_read"] for shard in json.loads(status.stdout)["shards"].values())
