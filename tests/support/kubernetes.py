"""Manifests as `kubectl apply -k` would send them."""

from __future__ import annotations

import copy
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import yaml

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "deploy/kubernetes"
OVERLAYS = [
    *sorted(f"overlays/{path.name}" for path in (FOLDER / "overlays").iterdir()),
    "../contrib/autoscale-keda",
    "../contrib/multi-node",
]
KSERVE = "../contrib/kserve"
EXPORTS = ["export/7b", "export/7b-two-gpus", "export/random"]
BATCH = "batch"
VERSION = "1.37"
_KUBECTL = Path(sys.executable).with_name("kubectl")
_CRDS = ROOT / "tests/deploy/kubernetes/crds"

Manifest = dict[str, Any]


class Manifests(list[Manifest]):
    """What one folder renders to."""

    def get(self, kind: str, name: str = "video-llava") -> Manifest:
        """The one manifest of that name."""
        (found,) = (item for item in self.of(kind) if item["metadata"]["name"] == name)
        return found

    def of(self, kind: str) -> list[Manifest]:
        """All of a kind."""
        return [item for item in self if item["kind"] == kind]

    def pods(self) -> Iterator[tuple[str, Manifest]]:
        """Every pod template, labels and spec, with a name for it."""
        for item in self:
            name, spec = f"{item['kind']}/{item['metadata']['name']}", item.get("spec", {})
            if item["kind"] in ("Deployment", "Job"):
                yield name, spec["template"]
            if item["kind"] == "LeaderWorkerSet":
                for role in ("leaderTemplate", "workerTemplate"):
                    yield f"{name}-{role}", spec["leaderWorkerTemplate"][role]
            if item["kind"] == "ClusterServingRuntime":
                yield name, {"metadata": {}, "spec": {key: spec[key] for key in ("containers", "volumes")}}

    def containers(self) -> Iterator[tuple[Manifest, Manifest]]:
        """Every container, init containers too, with its pod's spec."""
        for _, pod in self.pods():
            for each in (*pod["spec"]["containers"], *pod["spec"].get("initContainers", [])):
                yield each, pod["spec"]

    def server(self) -> Manifest:
        """The pod template that runs Triton."""
        (found,) = (pod for _, pod in self.pods() if any(c["name"] == "triton" for c in pod["spec"]["containers"]))
        return found

    def triton(self) -> Manifest:
        """The container that runs Triton."""
        return next(each for each in self.server()["spec"]["containers"] if each["name"] == "triton")


def render(folder: str) -> Manifests:
    """Render a folder of deploy/kubernetes; each call returns a copy."""
    return copy.deepcopy(_render(folder))


@cache
def _render(folder: str) -> Manifests:
    done = subprocess.run(
        [_KUBECTL, "kustomize", FOLDER / folder], capture_output=True, check=False, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return Manifests(yaml.safe_load_all(done.stdout))


def validate(manifests: Manifests) -> None:
    """Check against Kubernetes' schemas, unknown fields too. Raises ValidationError of either library."""
    for item in manifests:
        _validate(json.dumps(item))
    for name, pod in manifests.pods():
        metadata = {"name": name.lower()}
        _validate(json.dumps({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": pod["spec"]}))


@cache  # overlays share most of their manifests
def _validate(text: str) -> None:
    item = json.loads(text)
    path = _CRDS / f"{item['kind']}.{item['apiVersion'].replace('/', '.')}.json"
    if path.exists():
        jsonschema.validate(item, json.loads(path.read_text(encoding="utf-8")))
    else:
        kubernetes_validate.validate(item, VERSION, strict=True)


def quantity(text: str) -> int:
    """A quantity of memory, in bytes."""
    number, unit = text[:-2], text[-2:]
    return int(number) << {"Ki": 10, "Mi": 20, "Gi": 30}[unit]


def flags(arguments: list[str]) -> dict[str, str]:
    """`--name=value` arguments by name."""
    return dict(text.removeprefix("--").split("=", 1) for text in arguments if text.startswith("--") and "=" in text)


def exported_metrics() -> set[str]:
    """The names of the metrics that the server's code makes."""
    paths = [path for name in ("model_repository", "deploy/server") for path in (ROOT / name).rglob("*.py")]
    return {
        name for path in paths for name in re.findall(r'"((?:vllm|video_llava):\w+)"', path.read_text(encoding="utf-8"))
    }
