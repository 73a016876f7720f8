"""The client stays light, and its modules import each other in one direction."""

import ast
import json
import os
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import video_llava_client
from video_llava_client.testing import FakeServer

CODE = """
import sys, video_llava_client
assert all(hasattr(video_llava_client, name) for name in video_llava_client.__all__)
print(*sorted({name.partition(".")[0] for name in sys.modules}))
"""


def test_the_import_brings_no_framework_no_ffmpeg_and_no_command_line():
    imported = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=True).stdout.split()
    assert "video_llava_client" in imported
    assert not {"torch", "transformers", "vllm", "onnxruntime", "av", "click"} & set(imported)


LOADED = """
import sys
from video_llava_client.cli import app
app(sys.argv[1:], standalone_mode=False)
print("loaded", *sorted({name.partition(".")[0] for name in sys.modules}))
"""


def loaded_by(*arguments):
    command = [sys.executable, "-c", LOADED, *arguments]
    printed = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
    return set(printed.rpartition("loaded ")[2].split())


def test_a_question_without_media_loads_neither_numpy_nor_pillow():
    with FakeServer() as server:
        loaded = loaded_by("ask", "What?", "--url", server.url)
    assert "grpc" in loaded
    assert not {"numpy", "PIL", "rich", "tritonclient"} & loaded


def test_a_help_loads_no_grpc():
    loaded = loaded_by("batch", "--help")
    assert "click" in loaded
    assert not {"grpc", "numpy", "PIL", "rich", "google"} & loaded


def test_every_public_type_is_written_down():
    root = Path(video_llava_client.__file__).parents[1]
    # It finds neither an editable install nor the packages beside it by itself.
    path = os.pathsep.join([str(root), *(entry for entry in sys.path if entry.endswith("site-packages"))])
    command = [sys.executable, "-m", "basedpyright", "--verifytypes", "video_llava_client", "--ignoreexternal"]
    environment = os.environ | {"PYTHONPATH": path}
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=250, env=environment)
    assert "Type completeness score: 100%" in done.stdout, done.stdout[-5000:]


WITHOUT_FCNTL = """
import asyncio, importlib, pkgutil, sys  # on this system asyncio itself needs fcntl
sys.modules["fcntl"] = None
import video_llava_client
for module in pkgutil.walk_packages(video_llava_client.__path__, "video_llava_client."):
    if not module.name.endswith("__main__"):
        importlib.import_module(module.name)
from pathlib import Path
from video_llava_client.batch import Line, OutputFile
for number in (2, 1):
    with OutputFile(Path(sys.argv[1]), ordered=True) as output:
        output.write(Line(number, 0, b"{}"), {})
        output.finish()
        assert output.knows(Line(number, 0, b"{}"))
"""


def test_without_fcntl_as_on_windows_everything_imports_and_a_batch_resumes(tmp_path):
    target = tmp_path / "out.jsonl"
    command = [sys.executable, "-c", WITHOUT_FCNTL, target]
    subprocess.run(command, check=True, timeout=120)
    assert [json.loads(record)["line"] for record in target.read_text().splitlines()] == [1, 2]
    assert list(tmp_path.iterdir()) == [target]


def imports_of(path: Path, root: Path) -> set[Path]:
    """Return the files of the package that `path` imports, inside functions and under TYPE_CHECKING too."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level:
            folder = path.parents[node.level - 1].joinpath(*(node.module or "").split("."))
            names = [folder / alias.name for alias in node.names]
            candidates = [folder.with_suffix(".py"), folder / "__init__.py", *(n.with_suffix(".py") for n in names)]
            found |= {file for file in candidates if file.is_file()}
    return found - {path, root / "__init__.py"}


def test_no_module_imports_itself_through_others():
    root = Path(video_llava_client.__file__).parent
    graph = {path: imports_of(path, root) for path in root.rglob("*.py")}
    assert len(graph) > 40
    assert sum(map(len, graph.values())) > 100
    TopologicalSorter(graph).prepare()  # raises CycleError, which names the circle
