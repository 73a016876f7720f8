"""Containers by podman, with what a rendered Kubernetes container asks for."""

from __future__ import annotations

import os
import re
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

from .kubernetes import Manifest, quantity

_ENVIRONMENT = os.environ | {"CONTAINERS_CONF": str(Path(__file__).with_name("containers.conf"))}


def podman(*arguments: str | Path, timeout_seconds: float = 120) -> str:
    """Run podman; return what it prints. Fails with its error."""
    done = try_podman(*arguments, timeout_seconds=timeout_seconds)
    assert done.returncode == 0, f"podman {' '.join(map(str, arguments))}: {done.stderr[-2000:]}"
    return done.stdout.strip()


def try_podman(*arguments: str | Path, timeout_seconds: float = 120) -> subprocess.CompletedProcess[str]:
    """Run podman, whether or not it succeeds."""
    return subprocess.run(
        ["podman", *arguments],
        env=_ENVIRONMENT,
        capture_output=True,
        check=False,
        text=True,
        errors="replace",
        timeout=timeout_seconds,
    )


class Container:
    """A container from its start to the end of a `with` block."""

    def __init__(self, name: str, image: str, options: Sequence[str], arguments: Sequence[str]) -> None:
        self.name = name
        self._command = ["run", "--detach", f"--name={name}", *options, image, *arguments]

    def __enter__(self) -> Self:
        self.remove()
        podman(*self._command)
        return self

    def __exit__(self, *_error: object) -> None:
        self.remove()

    def remove(self) -> None:
        """Remove it, whether it runs or has ended."""
        podman("rm", "--force", "--time=0", "--volumes", "--ignore", self.name)

    @property
    def pid(self) -> int:
        """Of its first process, as the host sees it."""
        return int(self.inspect("{{.State.Pid}}"))

    def inspect(self, template: str) -> str:
        return podman("inspect", "--type=container", f"--format={template}", self.name)

    def exec(self, *command: str, timeout_seconds: float = 60) -> str:
        return podman("exec", self.name, *command, timeout_seconds=timeout_seconds)

    def log(self) -> tuple[str, str]:
        """What it has written to standard output and to standard error."""
        done = try_podman("logs", self.name)
        return done.stdout, done.stderr

    def is_healthy(self) -> bool:
        """Run the image's HEALTHCHECK."""
        return try_podman("healthcheck", "run", self.name).returncode == 0

    def wait_healthy(self, *, timeout_seconds: float = 600) -> float:
        """Wait until it is; return the seconds since the call."""
        began = time.monotonic()
        while not self.is_healthy():
            state, seconds = self.inspect("{{.State.Status}}"), time.monotonic() - began
            assert state == "running", f"{self.name} is {state}: {self.log()[1][-2000:]}"
            assert seconds < timeout_seconds, f"{self.name} is not ready: {self.log()[1][-2000:]}"
            time.sleep(3)  # each question starts a Python
        return time.monotonic() - began

    def stop(self, *, timeout_seconds: int) -> int:
        """SIGTERM, and SIGKILL after `timeout_seconds`; return its exit code."""
        podman("stop", f"--time={timeout_seconds}", self.name, timeout_seconds=timeout_seconds + 60)
        return int(self.inspect("{{.State.ExitCode}}"))


def rights_of(pod: Manifest, container: Manifest) -> list[str]:
    """`podman run`'s options for user, rights and memory of a container in a rendered pod template."""
    context = {**pod["spec"]["securityContext"], **container["securityContext"]}
    assert context["readOnlyRootFilesystem"]
    assert not context["allowPrivilegeEscalation"]
    memory = quantity(container["resources"]["limits"]["memory"])
    return [
        f"--user={context['runAsUser']}:{context['runAsGroup']}",
        "--read-only",
        "--read-only-tmpfs=false",
        f"--cap-drop={','.join(context['capabilities']['drop'])}",
        "--security-opt=no-new-privileges",
        f"--memory={memory}",
        f"--memory-swap={memory}",
    ]


def volumes_of(pod: Manifest, container: Manifest, *, models: Path) -> list[str]:
    """`podman run`'s options for the volumes of a server or an export Job; its models are in a folder here."""
    volumes = {volume["name"]: volume for volume in pod["spec"]["volumes"]}
    mounts = {mount["name"]: mount for mount in container["volumeMounts"]}
    shm = [f"--shm-size={_limit(volumes['shm'])}"] if "shm" in volumes else []
    return [
        f"--volume={models}:/models{':ro' if mounts['models'].get('readOnly') else ''}",
        "--volume=/cache",
        f"--tmpfs=/tmp:exec,mode=1777,size={_limit(volumes['tmp'])}",
        *shm,
    ]


def _limit(volume: dict[str, Any]) -> int:
    return quantity(volume["emptyDir"]["sizeLimit"])


def expand(arguments: Sequence[str], **values: str) -> list[str]:
    """Replace `$(NAME)` as Kubernetes does."""
    return [re.sub(r"\$\((\w+)\)", lambda match: values[match[1]], argument) for argument in arguments]
