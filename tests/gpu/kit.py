"""`make gpu-kit`: packs what a bare machine with one GPU lacks, in two parts, each below `MAX_PART_BYTES`.

The machine has Python 3.12, PyTorch, transformers and CUDA's libraries; packages come from pip's own configuration.
"""

import argparse
import hashlib
import shutil
import subprocess
import sys
import sysconfig
import tarfile
from collections.abc import Iterable
from pathlib import Path, PurePath

import numpy as np
from video_llava_client import Clip

from .thin import thin

MAX_PART_BYTES = 56_000_000
GENERATION = 90
ROOT = Path(__file__).parents[2]
_HERE = Path(__file__).parent
LOCK = ROOT / "deploy" / "docker" / "requirements-gpu.lock"
_SOURCES = ("client", "export", "deploy/local", "deploy/server", "model_repository", "tests/bench", "tests/gpu")
_SUPPORT = ("tests/support/__init__.py", "tests/support/export.py", "tests/support/vicuna_config.py")
_GLIBC = (39, 35, 31, 28, 17)
# Kernels of ONNX Runtime that the encoders do not run: all fused ones but attention over heads of 64 in float16.
_TOWERS_ATTENTION = r"Flash_fwd_kernel_traitsILi64E(?:L[ib]\d+E)*N7cutlass6half_tE"
_DROPPED_KERNELS = rf"(?i)^(?!.*{_TOWERS_ATTENTION}).*(?:moe|fpa_intb|xqa|fmha|cutlass|flash)"
# What a Llama in bfloat16 on one GPU does not use.
_NOT_OF_VLLM = """
vllm/vllm-rs vllm/vllm_flash_attn/_vllm_fa2_C.abi3.so vllm/_flashmla_C.abi3.so vllm/_flashmla_extension_C.abi3.so
vllm/_deepselect_C.abi3.so vllm/_flashkda_C.abi3.so vllm/_qutlass_C.abi3.so vllm/_rust_tool_parser.abi3.so
vllm/third_party/deep_gemm vllm/third_party/fmha_sm100 vllm/third_party/tml_fa4
vllm/entrypoints/serve/instrumentator/static mistral_common/data pycountry/locales bin
"""
_STUBS = "pytriton/tritonserver/python_backend_stubs"
_NOT_OF_TRITON = f"nvidia_pytriton.libs/libpython3* {_STUBS}/3.[89] {_STUBS}/3.1[013]"
_NOT_OF_ONNXRUNTIME = """
onnxruntime/capi/libonnxruntime_providers_tensorrt.so onnxruntime/capi/libonnxruntime.so.*
onnxruntime/ThirdPartyNotices.txt onnxruntime/transformers onnxruntime/tools onnxruntime/quantization
"""
_NOT_OF_NUMPY = "bin numpy/tests numpy/f2py numpy/doc numpy/*/tests"
_NOT_OF_PYTHON = """
test site-packages/* idlelib tkinter turtledemo lib2to3 ensurepip config-3.12-* pydoc_data lib-dynload/_test*
"""


def main() -> None:
    """Make both parts."""
    parser = argparse.ArgumentParser(prog="make gpu-kit", description=__doc__)
    parser.add_argument("--pip", type=Path, required=True, help="the program")
    parser.add_argument("--python", type=Path, required=True, help="a Python 3.12 with a shared library")
    parser.add_argument("--into", type=Path, default=ROOT / "build" / "gpu")
    options = parser.parse_args()
    packages = options.into / "packages"
    shutil.rmtree(packages, ignore_errors=True)
    first, second, tools = (packages / name for name in ("1", "2", "tools"))
    subprocess.run([options.pip, "install", "--quiet", "--target", tools, "zstandard"], check=True)
    sys.path.append(str(tools))
    _install_vllm(options.pip, first / "site")
    copy_source(first / "source")
    _install_onnxruntime(options.pip, second / "onnxruntime")
    _install_triton(options.pip, second / "triton")
    _install(options.pip, first / "numpy", ["numpy==1.26.4"])
    _remove(first / "numpy", _NOT_OF_NUMPY)
    _copy_python(options.python, second / "python")
    for number, folder in enumerate((first, second), start=1):
        make_part(number, folder, options.into)


def _install(pip: Path, folder: Path, requirements: Iterable[str]) -> None:
    platforms = [f"--platform=manylinux_2_{minor}_x86_64" for minor in _GLIBC] + ["--platform=manylinux2014_x86_64"]
    where = ["--target", str(folder), "--python-version=3.12", "--implementation=cp", *platforms]
    flags = ["--no-deps", "--only-binary=:all:", "--no-compile", "--quiet"]
    subprocess.run([pip, "install", *flags, *where, *requirements], check=True)


def package_names() -> list[str]:
    """What part 1 brings for vLLM."""
    lines = (_HERE / "packages.txt").read_text(encoding="utf-8").splitlines()
    return [name for line in lines if not line.startswith("#") for name in line.split()]


def locked(names: Iterable[str], lock: str) -> list[str]:
    """`name==version` of each of `names` in a lock file's text. Raises KeyError for one that it does not have."""
    versions = dict(line.split("==") for line in lock.splitlines() if "==" in line)
    return [f"{name}=={versions[name]}" for name in names]


def _install_vllm(pip: Path, folder: Path) -> None:
    _install(pip, folder, locked(package_names(), LOCK.read_text(encoding="utf-8")))
    _remove(folder, _NOT_OF_VLLM)
    for name in ("_C_stable_libtorch", "_moe_C_stable_libtorch"):
        thin(folder / "vllm" / f"{name}.abi3.so", GENERATION)
    # Most of it is there for debuggers.
    subprocess.run(["strip", "--strip-debug", *folder.glob("rapidjson*.so")], check=True)
    shutil.copy(_HERE / "stand_in_for_av.py", folder / "av.py")
    metadata = next(Path(sysconfig.get_path("purelib")).glob("video_llava_triton-*.dist-info"))
    shutil.copytree(metadata, folder / metadata.name)


def _install_onnxruntime(pip: Path, folder: Path) -> None:
    _install(pip, folder, ["onnxruntime-gpu==1.31.1"])
    _remove(folder, _NOT_OF_ONNXRUNTIME)
    thin(folder / "onnxruntime/capi/libonnxruntime_providers_cuda.so", GENERATION, drop=_DROPPED_KERNELS)


def _install_triton(pip: Path, folder: Path) -> None:
    _install(pip, folder, ["nvidia-pytriton==0.7.0"])
    _remove(folder, _NOT_OF_TRITON)
    libraries = folder / "nvidia_pytriton.libs"
    # 28 MB of tables for languages that nothing here asks for.
    (data,) = libraries.glob("libicudata-*")
    source = "__attribute__((aligned(64))) const unsigned char icudt70_dat[4096] = {0};"
    compiler = ["gcc", "-shared", "-fPIC", f"-Wl,-soname,{data.name}", "-x", "c", "-", "-o", str(data)]
    subprocess.run(compiler, input=source, text=True, check=True)
    (numa,) = libraries.glob("libnuma-*")
    shutil.copy(numa, libraries / "libnuma.so.1")


def _copy_python(python: Path, folder: Path) -> None:
    prefix = Path(subprocess.check_output([python, "-c", "import sys; print(sys.prefix)"], text=True).strip())
    for name in ("bin/python3.12", "lib/libpython3.12.so.1.0"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(prefix / name, folder / name)
    # Kernels that are compiled on the machine are linked with it.
    shutil.copytree(prefix / "include", folder / "include")
    shutil.copytree(prefix / "lib/python3.12", folder / "lib/python3.12")
    _remove(folder / "lib/python3.12", _NOT_OF_PYTHON)
    libraries = [path for path in folder.rglob("*") if ".so" in path.name]
    subprocess.run(["strip", "--strip-debug", *libraries], check=True)
    for name, target in (("bin/python3", "python3.12"), ("lib/libpython3.12.so", "libpython3.12.so.1.0")):
        (folder / name).symlink_to(target)


def _remove(folder: Path, patterns: str) -> None:
    for pattern in patterns.split():
        for path in folder.glob(pattern):
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def copy_source(folder: Path) -> None:
    """Copy the product, the bench and the frames of its clip as this checkout has them."""
    names = subprocess.check_output(["git", "ls-files", *_SOURCES, *_SUPPORT], cwd=ROOT, text=True).splitlines()
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, folder / name)
    commit = subprocess.check_output(["git", "describe", "--always", "--dirty"], cwd=ROOT, text=True)
    (folder / "commit").write_text(commit, encoding="utf-8")
    frames = folder / "tests" / "media" / "bikes.npy"
    frames.parent.mkdir()
    np.save(frames, Clip.load(ROOT / "tests" / "media" / "bikes.mp4", size=224).frames)


def make_part(number: int, folder: Path, into: Path) -> Path:
    """Pack `folder` with the scripts of part `number` into a folder of `into`. Exits if it is larger than allowed."""
    part = into / str(number)
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    shutil.copy(_HERE / f"part{number}.sh", part / "run.sh")
    shutil.copy(_HERE / "environment.sh", part)
    with tarfile.open(part / "files.tar.xz", "w:xz", preset=6) as archive:
        archive.add(folder, ".", filter=_wanted)
    files = sorted(part.iterdir())
    sums = "".join(f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n" for path in files)
    (part / "SHA256SUMS").write_text(sums, encoding="utf-8")
    size = sum(path.stat().st_size for path in part.iterdir())
    if size > MAX_PART_BYTES:
        largest = max(folder.iterdir(), key=lambda each: sum(path.lstat().st_size for path in each.rglob("*")))
        sys.exit(f"part {number} has {size:,} bytes, allowed are {MAX_PART_BYTES:,}; {largest.name} is most of it")
    sys.stdout.write(f"{part}: {size:,} bytes; on the machine: bash {number}/run.sh RESULTS\n")
    return part


def _wanted(member: tarfile.TarInfo) -> tarfile.TarInfo | None:
    path = PurePath(member.name)
    is_wanted = path.suffix != ".pyi" and not {"__pycache__", "tests"} & set(path.parts[-2:])
    return member if is_wanted or path.parts[0] == "source" else None


if __name__ == "__main__":
    main()
