"""The client stays light, and its modules import each other in one direction."""

import ast
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import video_llava_client

CODE = """
import sys, video_llava_client
assert all(hasattr(video_llava_client, name) for name in video_llava_client.__all__)
print(*sorted({name.partition(".")[0] for name in sys.modules}))
"""


def test_the_import_brings_no_framework_no_ffmpeg_and_no_command_line():
    imported = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=True).stdout.split()
    assert "video_llava_client" in imported
    assert not {"torch", "transformers", "vllm", "onnxruntime", "av", "typer"} & set(imported)


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
