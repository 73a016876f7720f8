"""Manifests as `kubectl apply -k` would send them."""

from __future__ import annotations

import copy
import json
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
OVERLAYS = sorted(path.name for path in (FOLDER / "overlays").iterdir())
VERSION = "1.37"
_KUBECTL = Path(sys.executable).with_name("kubectl")
_CRDS = ROOT / "tests/deploy/kubernetes/crds"

Manifest = dict[str, Any]


class Manifests(list[Manifest]):
    """What one folder renders to."""

    def get(self, kind: str, name: str = "video-llava") -> Manifest:
        """The one manifest of that name."""
        (found,) = (item for item in self if (item["kind"], item["metadata"]["name"]) == (kind, name))
        return found

    def of(self, kind: str) -> list[Manifest]:
        """All of a kind."""
        return [item for item in self if item["kind"] == kind]

    def pods(self) -> Iterator[tuple[str, Manifest]]:
        """Every pod template, labels and spec, with a name for it."""
        for item in self:
            spec = item.get("spec", {})
            if item["kind"] in ("Deployment", "Job"):
                yield f"{item['kind']}/{item['metadata']['name']}", spec["template"]
            if item["kind"] == "LeaderWorkerSet":
                for role in ("leaderTemplate", "workerTemplate"):
                    yield f"{item['kind']}/{role}", spec["leaderWorkerTemplate"][role]
            if item["kind"] == "ClusterServingRuntime":
                pod = {key: spec[key] for key in ("containers", "volumes")}
                yield f"{item['kind']}/{item['metadata']['name']}", {"metadata": {}, "spec": pod}

    def server(self) -> Manifest:
        """The pod template that runs Triton."""
        (found,) = (pod for _, pod in self.pods() if any(c["name"] == "triton" for c in pod["spec"]["containers"]))
        return found


def render(folder: str) -> Manifests:
    """Render a folder of deploy/kubernetes; an own copy for each caller."""
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
        path = _CRDS / f"{item['kind']}.{item['apiVersion'].replace('/', '.')}.json"
        if path.exists():
            jsonschema.validate(item, json.loads(path.read_text(encoding="utf-8")))
        else:
            kubernetes_validate.validate(item, VERSION, strict=True)
    for name, pod in manifests.pods():
        checked = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name.lower()}, "spec": pod["spec"]}
        kubernetes_validate.validate(checked, VERSION, strict=True)


def quantity(text: str) -> int:
    """A quantity of memory, in bytes."""
    number, unit = text[:-2], text[-2:]
    return int(number) << {"Ki": 10, "Mi": 20, "Gi": 30}[unit]


def flags(arguments: list[str]) -> dict[str, str]:
    """`--name=value` arguments by name."""
    return dict(text.removeprefix("--").split("=", 1) for text in arguments if text.startswith("--") and "=" in text)
