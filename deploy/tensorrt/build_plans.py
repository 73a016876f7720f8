"""ONNX encoders become TensorRT plans. Run it where they will be served: a plan is for one kind of GPU and one release.

    docker run --rm --gpus all -v $PWD/models:/models -v $PWD/deploy/tensorrt:/tools \\
      nvcr.io/nvidia/tensorrt:26.07-py3 python3 /tools/build_plans.py /models
    tritonserver --model-repository=/models --model-config-name=tensorrt

The two images must be of the same release, that is of the same TensorRT. Export with --encoder-precision fp16: the plan
computes in what the graph says. For Python's standard library alone; --dry-run prints the commands and runs nothing.
"""

import argparse
import json
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

INPUT = "frames"
PRECISIONS = ("float32", "float16")


class BuildError(Exception):
    """The text is one line: what was wrong, and what to do."""


@dataclass(frozen=True)
class Shapes:
    """The shape profile of one encoder: batch x frames x size x size x 3, each as trtexec writes it.

    The least has no frames: a request without that medium passes through the encoder as well.
    """

    least: str
    usual: str
    most: str


def shapes_of(medium: str, manifest: dict, *, max_batch_size: int) -> Shapes:
    """Up to as many frames as fit the model's context, `max_batch_size` requests of them at a time."""
    if medium == "video":
        usual = manifest["num_frames"]
        most = max(1, manifest["max_position_embeddings"] // (usual * manifest["tokens_per_frame"])) * usual
    else:
        usual = 1
        most = max(1, manifest["max_position_embeddings"] // manifest["tokens_per_image"])
    size = manifest["image_size"]
    return Shapes(
        *(f"{INPUT}:{batch}x{frames}x{size}x{size}x3" for batch, frames in ((1, 0), (1, usual), (max_batch_size, most)))
    )


def read_max_batch_size(config: Path) -> int:
    """`max_batch_size` of the configuration that will load the plan."""
    match = re.search(r"^max_batch_size:\s*(\d+)", config.read_text(encoding="utf-8"), re.MULTILINE)
    if match is None:
        raise BuildError(f"{config} has no max_batch_size; take the one of this project")
    return int(match[1])


def build_command(folder: Path, shapes: Shapes, *, strongly_typed: bool) -> list[str]:
    """Trtexec's command line for the encoder in `folder`; the plan takes its name when it is whole."""
    return [
        "trtexec",
        f"--onnx={folder / 'model.onnx'}",
        f"--saveEngine={folder / 'model.plan.part'}",
        f"--minShapes={shapes.least}",
        f"--optShapes={shapes.usual}",
        f"--maxShapes={shapes.most}",
        # Otherwise TensorRT before 11 takes float32 wherever it is not told that it may do with less.
        *(["--stronglyTyped"] if strongly_typed else []),
        "--skipInference",
    ]


def run_commands(folder: Path, shapes: Shapes) -> list[list[str]]:
    """Run the plan once without frames, once with the most: what fails here would fail a request."""
    load = ["trtexec", f"--loadEngine={folder / 'model.plan.part'}", "--iterations=1", "--warmUp=0", "--duration=0"]
    return [[*load, f"--shapes={shape}"] for shape in (shapes.least, shapes.most)]


def build(repository: Path, *, dry_run: bool) -> None:
    """Build and try both plans. Raises `BuildError`."""
    manifest = _read_manifest(repository)
    strongly_typed = dry_run or _knows_strongly_typed()
    for medium in ("video", "image"):
        model = repository / f"{medium}_encoder"
        shapes = shapes_of(medium, manifest, max_batch_size=read_max_batch_size(model / "configs" / "tensorrt.pbtxt"))
        folder = model / "1"
        for command in (build_command(folder, shapes, strongly_typed=strongly_typed), *run_commands(folder, shapes)):
            print(shlex.join(command), flush=True)
            if not dry_run and subprocess.run(command, check=False).returncode:
                raise BuildError(f"trtexec failed on {model.name}; its last lines above say why")
        if not dry_run:
            (folder / "model.plan.part").replace(folder / "model.plan")


def _read_manifest(repository: Path) -> dict:
    path = repository / "manifest.json"
    if not path.is_file():
        raise BuildError(f"no {path}: run video-llava-export CHECKPOINT --into {repository}")
    manifest = json.loads(path.read_text(encoding="utf-8"))
    if (precision := manifest["dtypes"]["video_encoder"]) not in PRECISIONS:
        raise BuildError(f"the encoders are {precision}, which TensorRT does not read; export with fp16 or fp32")
    return manifest


def _knows_strongly_typed() -> bool:
    """From TensorRT 11 on there is nothing else, and no flag."""
    if shutil.which("trtexec") is None:
        raise BuildError("no trtexec in PATH; run this in a container of nvcr.io/nvidia/tensorrt")
    done = subprocess.run(["trtexec", "--help"], capture_output=True, text=True, check=False)
    return "--stronglyTyped" in done.stdout


def main() -> None:
    """The command line: exit code 2 with one line for what cannot be built."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("repository", type=Path, help="a model repository that video-llava-export has filled")
    parser.add_argument("--dry-run", action="store_true", help="print the commands only")
    arguments = parser.parse_args()
    try:
        build(arguments.repository, dry_run=arguments.dry_run)
    except BuildError as exc:
        print(f"build_plans: {exc}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
