"""ONNX encoders become TensorRT plans. Run it where they will be served: a plan is for one kind of GPU and one release.

    docker run --rm --gpus all -v $PWD:/work -w /work nvcr.io/nvidia/tensorrt:26.07-py3 \\
      python3 deploy/tensorrt/build_plans.py models/ID --into plans
    video-llava-tritonserver --model models/ID --plans plans

The two images must be of the same release, that is of the same TensorRT, 10.14 or later. Export with
--encoder-precision fp16: a plan computes in what the graph says. Needs Python's standard library alone; --dry-run
prints the commands and runs nothing.
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
FORMAT = 2
PRECISIONS = ("float32", "float16")
CONFIGURATIONS = Path(__file__).resolve().parents[2] / "model_repository"


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
    """As many frames as the model's context holds, in `max_batch_size` requests at a time."""
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


def build_command(graph: Path, plan: Path, shapes: Shapes, *, strongly_typed: bool) -> list[str]:
    """trtexec's command for the graph at `graph`."""
    return [
        "trtexec",
        f"--onnx={graph}",
        f"--saveEngine={plan}",
        f"--minShapes={shapes.least}",
        f"--optShapes={shapes.usual}",
        f"--maxShapes={shapes.most}",
        # Without it, TensorRT before 11 computes in float32 what the graph has in float16.
        *(["--stronglyTyped"] if strongly_typed else []),
        "--skipInference",
    ]


def run_commands(plan: Path, shapes: Shapes) -> list[list[str]]:
    """Run the plan once without frames, once with the most: what fails here would fail a request."""
    load = ["trtexec", f"--loadEngine={plan}", "--iterations=1", "--warmUp=0", "--duration=0"]
    return [[*load, f"--shapes={shape}"] for shape in (shapes.least, shapes.most)]


def build(model: Path, into: Path, *, overlay: Path | None = None, dry_run: bool) -> None:
    """Build and try both plans; each gets its name when both commands have succeeded. Raises `BuildError`."""
    manifest = _read_manifest(model)
    strongly_typed = dry_run or _knows_strongly_typed()
    if not dry_run:
        into.mkdir(parents=True, exist_ok=True)
    for medium in ("video", "image"):
        name = f"{medium}_encoder"
        shapes = shapes_of(medium, manifest, max_batch_size=read_max_batch_size(_find_config(name, overlay)))
        graph, plan = model / "encoders" / f"{name}.onnx", into / f"{name}.plan.part"
        for command in (
            build_command(graph, plan, shapes, strongly_typed=strongly_typed),
            *run_commands(plan, shapes),
        ):
            print(shlex.join(command), flush=True)
            if not dry_run and subprocess.run(command, check=False).returncode:
                raise BuildError(f"trtexec failed on {name}; its last lines above say why")
        if not dry_run:
            plan.replace(into / f"{name}.plan")


def _find_config(name: str, overlay: Path | None) -> Path:
    """The edited configuration, if the server gets one."""
    path = Path(name, "configs", "tensorrt.pbtxt")
    edited = None if overlay is None else overlay / path
    return edited if edited and edited.is_file() else CONFIGURATIONS / path


def _read_manifest(model: Path) -> dict:
    path = model / "manifest.json"
    if not path.is_file():
        raise BuildError(f"no {path}: name the folder that `video-llava-export CHECKPOINT --into DIR` has printed")
    manifest = json.loads(path.read_text(encoding="utf-8"))
    if (found := manifest.get("format")) != FORMAT:
        raise BuildError(f"{path} has format {found!r}, this release reads {FORMAT}; export or convert the model")
    if (precision := manifest["dtypes"]["video_encoder"]) not in PRECISIONS:
        raise BuildError(f"the encoders are {precision}, which TensorRT does not read; export with fp16 or fp32")
    return manifest


def _knows_strongly_typed() -> bool:
    """TensorRT 11 has no such flag: it does nothing else."""
    if shutil.which("trtexec") is None:
        raise BuildError("no trtexec in PATH; run this in a container of nvcr.io/nvidia/tensorrt")
    done = subprocess.run(["trtexec", "--help"], capture_output=True, text=True, check=False)
    return "--stronglyTyped" in done.stdout


def main() -> None:
    """The command line: exit code 2 with one line for what cannot be built."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, metavar="DIR/ID", help="a model folder that video-llava-export has written")
    parser.add_argument("--into", type=Path, required=True, metavar="PLANS", help="where to write the plans")
    parser.add_argument("--overlay", type=Path, metavar="DIR", help="the --overlay of the server")
    parser.add_argument("--dry-run", action="store_true", help="print the commands only")
    arguments = parser.parse_args()
    try:
        build(arguments.model, arguments.into, overlay=arguments.overlay, dry_run=arguments.dry_run)
    except BuildError as exc:
        print(f"build_plans: {exc}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
