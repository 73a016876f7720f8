"""`podman kube play` of what an overlay renders, and by hand what podman 4.3 does not do."""

import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import yaml
from video_llava_serve._ready import answers_ready

from .containers import podman, try_podman
from .kubernetes import Manifests

POD = "video-llava-pod-0"


def playable(manifests: Manifests, *, image: str, model_id: str) -> str:
    """Return the manifests as podman understands them."""
    pod = manifests.server()["spec"]
    for container in (*pod["containers"], *pod["initContainers"]):
        container["image"] = image
        # podman would open them on all addresses of this machine.
        container.pop("ports", None)
        # podman would call curl, which the image does not have.
        container.pop("livenessProbe", None)
    return yaml.safe_dump_all(manifests).replace("$(MODEL_ID)", model_id)


@contextmanager
def played(manifests: Path, *, network: str, models: Path) -> Iterator[None]:
    """Play a file with a copy of the folder `models` in its volume."""
    podman("kube", "play", "--start=false", f"--network={network}", manifests)
    try:
        shutil.copytree(models, _folder("video-llava-models"), dirs_exist_ok=True)
        # It sometimes fails to remove the init container, which has ended well.
        try_podman("pod", "start", POD)
        podman("start", f"{POD}-triton")
        # The pod's fsGroup, for the only volume whose place the image does not have. The first start resets it.
        os.chown(_folder("shm"), 1000, 1000)
        yield
    finally:
        podman("kube", "down", manifests)
        podman("volume", "rm", "--force", "video-llava-models")


def wait_ready(address: str, *, timeout_seconds: float = 600) -> float:
    """Wait until the server there is ready, since its pod has no health check; return the seconds since the call."""
    began = time.monotonic()
    while not answers_ready(address, 8000):
        log = try_podman("logs", "--tail=20", f"{POD}-triton")
        assert time.monotonic() - began < timeout_seconds, f"not ready: {log.stderr[-2000:]}"
        time.sleep(1)
    return time.monotonic() - began


def _folder(volume: str) -> Path:
    return Path(podman("volume", "inspect", "--format={{.Mountpoint}}", volume))
