"""The images for CPUs and of the gateway, built from this checkout, and the next release of the former."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

from .kubernetes import ROOT

BASE = os.environ.get("BASE") or "docker.io/library/debian:bookworm-slim"
IMAGE, NEXT_IMAGE = "localhost/video-llava:image-test", "localhost/video-llava:image-test-next"
GATEWAY_IMAGE = "localhost/video-llava-gateway:image-test"
_DOCKERFILE = ROOT / "deploy/docker/Dockerfile"


def what_is_missing() -> str:
    """What this machine lacks to build and run it, and what to do; empty if nothing."""
    if missing := [program for program in ("buildah", "podman", "runc") if not shutil.which(program)]:
        return f"image-test needs {', '.join(missing)}: apt-get install buildah podman runc"
    if os.geteuid() != 0:
        return "image-test sets memory limits and makes a network: run it as root"
    if not _succeeds("podman", "image", "exists", BASE) and not _succeeds("podman", "pull", "--quiet", BASE):
        return (
            f"image-test cannot pull {BASE}; without a registry: deploy/docker/debootstrap-base.sh, then "
            "make image-test BASE=localhost/debian:bookworm-slim"
        )
    return ""


def _succeeds(*command: str) -> bool:
    return subprocess.run(command, check=False, timeout=300).returncode == 0


def build(target: str = "cpu", tag: str = IMAGE) -> None:
    """Build a target as an image of this name."""
    command = [
        "buildah",
        "build",
        "--isolation=chroot",
        "--network=host",
        "--layers",
        "--format=docker",
        f"--target={target}",
    ]
    command += [f"--tag={tag}", f"--build-arg=DEBIAN={BASE}", f"--file={_DOCKERFILE}"]
    command += [f"--ignorefile={_DOCKERFILE}.dockerignore"]
    # As the Makefile: torch comes from where the other packages do.
    if wheels := os.environ.get("PIP_FIND_LINKS"):
        command += ["--build-arg=TORCH_BACKEND=", f"--volume={wheels}:{wheels}:ro"]
    subprocess.run([*command, str(ROOT)], check=True, timeout=900)


@contextmanager
def next_release() -> Iterator[str]:
    """The same image under another name, with a variable to know it by."""
    made = subprocess.run(["buildah", "from", IMAGE], capture_output=True, check=True, text=True).stdout.strip()
    subprocess.run(["buildah", "config", "--env", "RELEASE=next", made], check=True)
    subprocess.run(["buildah", "commit", "--quiet", "--rm", "--format=docker", made, NEXT_IMAGE], check=True)
    try:
        yield NEXT_IMAGE
    finally:
        subprocess.run(["podman", "rmi", NEXT_IMAGE], check=True)
