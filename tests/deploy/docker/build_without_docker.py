"""Carry out a Dockerfile's target step by step in roots made by debootstrap: where no Docker engine runs.

    sudo .venv/bin/python tests/deploy/docker/build_without_docker.py --into DIR [--target cpu] [--bind DIR] [--env N=V]

Each stage becomes the folder DIR/STAGE; a RUN is run in it under chroot with no environment but the file's own. DIR
holds several gigabytes in the end, and a stage that is there already is not made again. What this cannot show: images
other than Debian's, layers, and how a container runtime isolates what it runs. To run a command in the made image:

    sudo … --into DIR --bind MODELS=/models/video-llava -- video-llava-serve --repository /models/video-llava
"""

from __future__ import annotations

import argparse
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from string import Template

from docker.utils.build import exclude_paths
from dockerfile_parse import DockerfileParser

ROOT = Path(__file__).parents[3]
DOCKERFILE = ROOT / "deploy/docker/Dockerfile"
SUITE = "bookworm"
DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass
class Stage:
    """One FROM … AS … and what follows it."""

    name: str
    base: str
    steps: list[tuple[str, str]] = field(default_factory=list)


@dataclass
class Image:
    """A root and what the file says about running something in it."""

    root: Path
    environment: dict[str, str] = field(default_factory=lambda: {"PATH": DEFAULT_PATH})
    user: str = "0:0"
    directory: str = "/"


def read_stages(dockerfile: Path) -> dict[str, Stage]:
    """The stages by name, in order; arguments before the first FROM are filled in."""
    arguments: dict[str, str] = {}
    stages: dict[str, Stage] = {}
    stage = None
    for step in DockerfileParser(str(dockerfile), env_replace=False).structure:
        kind, value = step["instruction"], step["value"]
        if kind == "FROM":
            base, _, name = Template(value).safe_substitute(arguments).partition(" AS ")
            stage = stages[name] = Stage(name, base)
        elif kind == "ARG" and stage is None:
            key, _, text = value.partition("=")
            arguments[key] = text
        elif kind != "COMMENT" and stage is not None:
            stage.steps.append((kind, value))
    return stages


def context_files(root: Path, dockerignore: Path) -> set[str]:
    """What a build sees of `root`, as Docker reads the file."""
    lines = [line.strip() for line in dockerignore.read_text(encoding="utf-8").splitlines()]
    patterns = [line for line in lines if line and not line.startswith("#")]
    return {path for path in exclude_paths(str(root), patterns) if (root / path).is_file()}


class Builder:
    """Makes stages as folders."""

    def __init__(self, folder: Path, *, binds: Mapping[str, str], variables: Mapping[str, str]) -> None:
        self._folder = folder
        self._binds = binds
        self._variables = variables
        self._stages = read_stages(DOCKERFILE)

    def build(self, name: str) -> Image:
        """Make a stage and all that it needs."""
        stage = self._stages.get(name)
        if stage is None:
            return Image(self._debian(name))
        image = self.build(stage.base)
        done = self._folder / f"{name}.done"
        parent, image.root = image.root, self._folder / name
        if not done.exists():
            say(f"stage {name} from {stage.base}")
            shutil.rmtree(image.root, ignore_errors=True)
            subprocess.run(["cp", "--archive", "--reflink=auto", parent, image.root], check=True)
        for kind, value in stage.steps:
            self._carry_out(image, kind, value, only_settings=done.exists())
        done.touch()
        return image

    def _debian(self, name: str) -> Path:
        if not re.fullmatch(rf"debian:{SUITE}(-slim)?", name):
            sys.exit(f"{name} is not Debian's {SUITE}: that stage needs a Docker engine")
        root = self._folder / "debian"
        if not root.exists():
            say(f"debootstrap {SUITE}")
            made = root.with_suffix(".partial")
            shutil.rmtree(made, ignore_errors=True)
            subprocess.run(["debootstrap", "--variant=minbase", SUITE, made], check=True, stdout=subprocess.DEVNULL)
            made.rename(root)
        return root

    def _carry_out(self, image: Image, kind: str, value: str, *, only_settings: bool) -> None:
        match kind:
            case "ENV":
                pairs = (word.split("=", 1) for word in shlex.split(value))
                image.environment |= {key: Template(text).safe_substitute(image.environment) for key, text in pairs}
            case "ARG":
                key, _, text = value.partition("=")
                image.environment[key] = text
            case "USER":
                image.user = value
            case "WORKDIR":
                image.directory = value
                Path(f"{image.root}{value}").mkdir(parents=True, exist_ok=True)
            case "RUN" if not only_settings:
                self._run(image, value)
            case "COPY" if not only_settings:
                self._copy(image, value.split())
            case "RUN" | "COPY" | "EXPOSE" | "HEALTHCHECK" | "ENTRYPOINT" | "CMD":
                pass
            case _:
                sys.exit(f"{kind} is not known here")

    def _run(self, image: Image, value: str) -> None:
        targets = re.findall(r"--mount=type=cache,target=(\S+)", value)
        script = re.sub(r"--mount=\S+", "", value).strip()
        say(f"RUN {script}")
        caches = {f"{self._folder}/cache/{target.replace('/', '_')}": target for target in targets}
        for source in caches:
            Path(source).mkdir(parents=True, exist_ok=True)
        variables = {key: text for key, text in {**image.environment, **self._variables}.items() if text}
        self.execute(image, ["/bin/sh", "-c", script], variables=variables, caches=caches)

    def _copy(self, image: Image, words: list[str]) -> None:
        say(f"COPY {' '.join(words)}")
        target = Path(f"{image.root}{Path(image.directory, words[-1])}")
        if words[0].startswith("--from="):
            source = f"{self.build(words[0].removeprefix('--from=')).root}{words[1]}"
            target.parent.mkdir(parents=True, exist_ok=True)
            subprocess.run(["cp", "--archive", "--reflink=auto", "--no-target-directory", source, target], check=True)
            return
        for path in sorted(context_files(ROOT, DOCKERFILE.with_name("Dockerfile.dockerignore"))):
            if words[0] in (".", path):
                into = target / path if words[0] == "." else target / Path(path).name if words[1][-1] == "/" else target
                into.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(ROOT / path, into)

    def execute(
        self,
        image: Image,
        command: list[str],
        *,
        variables: Mapping[str, str],
        caches: Mapping[str, str] | None = None,
        read_only: bool = False,
    ) -> None:
        """Run a command in the image; CalledProcessError when it fails."""
        shutil.copy("/etc/resolv.conf", image.root / "etc/resolv.conf")
        change = ["chroot", f"--userspec={image.user}", str(image.root)]
        clean = ["/usr/bin/env", "-i", *(f"{key}={text}" for key, text in variables.items())]
        inside = ["/bin/sh", "-c", f'cd {image.directory} && exec "$@"', "sh", *command]
        with mounted(image.root, binds=self._binds, caches=caches or {}, read_only=read_only):
            subprocess.run([*change, *clean, *inside], check=True)


@contextmanager
def mounted(root: Path, *, binds: Mapping[str, str], caches: Mapping[str, str], read_only: bool) -> Iterator[None]:
    """What a container has: /proc, /dev, /sys, its own /dev/shm and /tmp, caches, binds to read. Gone afterwards.

    `read_only` as `docker run --read-only --tmpfs /tmp:exec --tmpfs /cache`.
    """
    for target in ("/cache", *binds.values()):
        Path(f"{root}{target}").mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        if read_only:
            mount(stack, ["--bind", root], root, read_only=True)
            mount(stack, ["-t", "tmpfs", "-o", "uid=1000,gid=1000", "tmpfs"], root / "cache")
        for target in ("/proc", "/dev", "/sys"):
            mount(stack, ["--bind", target], Path(f"{root}{target}"), read_only=target == "/sys")
        for target in ("/dev/shm", "/tmp"):
            mount(stack, ["-t", "tmpfs", "tmpfs"], Path(f"{root}{target}"))
        for source, target in caches.items():
            mount(stack, ["--bind", source], Path(f"{root}{target}"))
        for source, target in binds.items():
            mount(stack, ["--bind", source], Path(f"{root}{target}"), read_only=True)
        yield


def mount(stack: ExitStack, what: list[str | Path], target: Path, *, read_only: bool = False) -> None:
    """Mount on a folder until the stack unwinds."""
    target.mkdir(parents=True, exist_ok=True)
    subprocess.run(["mount", *what, target], check=True)
    stack.callback(subprocess.run, ["umount", "--lazy", target], check=True)
    if read_only:
        subprocess.run(["mount", "-o", "remount,bind,ro", target], check=True)


def say(text: str) -> None:
    """Tell what happens."""
    print(f"\n{text}", flush=True)


def main() -> None:
    """Build a target; run a command in it, or nothing."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--into", type=Path, required=True, metavar="DIR")
    parser.add_argument("--target", default="cpu")
    parser.add_argument("--bind", action="append", default=[], metavar="DIR[=TARGET]", help="to be read only")
    parser.add_argument("--env", action="append", default=[], metavar="NAME=VALUE", help="for RUN; empty: removes")
    parser.add_argument("command", nargs="*", help="run in the image, as its user, with a read-only root")
    arguments = parser.parse_args()
    binds = {source: target or source for source, _, target in (bind.partition("=") for bind in arguments.bind)}
    variables = dict(pair.split("=", 1) for pair in arguments.env)
    arguments.into.mkdir(parents=True, exist_ok=True)
    builder = Builder(arguments.into.resolve(), binds=binds, variables=variables)
    image = builder.build(arguments.target)
    if arguments.command:
        builder.execute(image, arguments.command, variables=image.environment, read_only=True)


if __name__ == "__main__":
    try:
        main()
    except subprocess.CalledProcessError as exc:
        sys.exit(f"{exc.cmd[0]} failed with exit code {exc.returncode}")
