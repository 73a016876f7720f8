"""Is a model folder what its export wrote? Told without loading a model."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError
from tokenizers import Tokenizer
from transformers import LlamaConfig
from video_llava_server.manifest import LANGUAGE_MODEL, NAME, FileFacts, Manifest, encoder_path

from .config import read_json
from .errors import CheckpointError
from .files import facts_of
from .graph import INPUT, OUTPUT
from .language_model import expected_shapes
from .progress import Progress
from .tensors import stored_tensors

Problems = Iterator[str]


@dataclass(frozen=True)
class Checked:
    """What a model folder holds, and what is wrong with it, a line each."""

    folder: Path
    manifest: Manifest
    problems: tuple[str, ...]

    @property
    def summary(self) -> str:
        """One line: which model it is."""
        manifest = self.manifest
        revision = f" at {manifest.revision}" if manifest.revision else ""
        dtypes = ", ".join(f"{part} {dtype}" for part, dtype in manifest.dtypes.items())
        return (
            f"{self.folder}: model {manifest.id} of {manifest.source}{revision}, content {manifest.content_digest}, "
            f"{len(manifest.files)} files, {manifest.size_bytes / 1e9:,.2f} GB ({dtypes})"
        )


def check(folder: Path, *, hashes: bool = True, progress: Progress | None = None) -> Checked:
    """Compare every file and every number with the manifest; without `hashes` only sizes of files.

    Raises `ModelFolderError` if there is no manifest that could be compared with.
    """
    manifest = Manifest.read(folder)
    problems = [*check_files(folder, manifest.files, hashes=hashes, progress=progress or Progress())]
    problems += _check_unlisted(folder, manifest)
    # What is missing or damaged has its line already, and cannot be read.
    if not problems:
        for part in (_check_graphs, _check_llama, _check_tokenizer, _check_engine):
            problems += part(folder, manifest)
    return Checked(folder, manifest, tuple(problems))


def check_files(folder: Path, files: Mapping[str, FileFacts], *, hashes: bool, progress: Progress) -> list[str]:
    """A line for each file that is missing or differs."""
    with progress.step("check") as step:
        advance = step.expect(sum(facts.size_bytes for facts in files.values()))
        problems = []
        for name, facts in sorted(files.items()):
            problems += _check_file(folder / name, facts, hashes=hashes)
            advance(facts.size_bytes)
    return problems


def _check_file(path: Path, expected: FileFacts, *, hashes: bool) -> Problems:
    if not path.is_file():
        yield f"{path} is missing"
    elif (size := path.stat().st_size) != expected.size_bytes:
        yield f"{path} has {size} bytes, the export wrote {expected.size_bytes}"
    elif hashes and facts_of(path) != expected:
        yield f"{path} has other content than the export wrote (SHA-256)"


def _check_unlisted(folder: Path, manifest: Manifest) -> Problems:
    """vLLM reads every safetensors file that lies with the others."""
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.relative_to(folder).as_posix() not in (NAME, *manifest.files):
            yield f"{path} is not of this export; remove it"


def _check_graphs(folder: Path, manifest: Manifest) -> Problems:
    size = manifest.image_size
    for medium, tokens in (("video", manifest.tokens_per_frame), ("image", manifest.tokens_per_image)):
        path = folder / encoder_path(medium)
        try:
            model = onnx.load(path, load_external_data=False)
        except DecodeError:
            yield f"{path} is no ONNX graph"
            continue
        shapes = {tensor.name: _shape(tensor) for tensor in (*model.graph.input, *model.graph.output)}
        if shapes.get(INPUT, [])[2:] != [size, size, 3]:
            yield f"{path} takes {INPUT} {shapes.get(INPUT)}, the manifest says [batch, frames, {size}, {size}, 3]"
        if shapes.get(OUTPUT, [])[2:] != [manifest.hidden_size]:
            yield f"{path} gives {OUTPUT} {shapes.get(OUTPUT)}, the manifest's hidden_size is {manifest.hidden_size}"
        noted = {entry.key: entry.value for entry in model.metadata_props}.get("tokens_per_frame")
        if noted != str(tokens):
            yield f"{path} makes {noted} tokens of a frame, the manifest says {tokens}"


def _shape(tensor: onnx.ValueInfoProto) -> list[int | str]:
    return [dim.dim_param or dim.dim_value for dim in tensor.type.tensor_type.shape.dim]


def _check_llama(folder: Path, manifest: Manifest) -> Problems:
    path = folder / LANGUAGE_MODEL / "config.json"
    raw = read_json(path)
    for name in ("hidden_size", "vocab_size", "max_position_embeddings"):
        if raw.get(name) != getattr(manifest, name):
            yield f"{path} has {name} {raw.get(name)}, the manifest {getattr(manifest, name)}"
    try:
        found = {stored.name: stored.shape for stored in stored_tensors(path.parent)}
    except CheckpointError as exc:
        yield str(exc)
        return
    if raw.get("quantization_config"):
        return
    config = LlamaConfig.from_dict(raw)
    for name, shape in expected_shapes(config, tied=bool(config.tie_word_embeddings)).items():
        if name not in found:
            yield f"{path.parent} lacks the tensor {name}"
        elif found[name] != shape:
            yield f"{path.parent}: {name} has shape {found[name]}, config.json asks for {shape}"


def _check_tokenizer(folder: Path, manifest: Manifest) -> Problems:
    path = folder / LANGUAGE_MODEL / "tokenizer.json"
    tokenizer = Tokenizer.from_file(str(path))
    for medium in ("image", "video"):
        token, expected = getattr(manifest, f"{medium}_token"), getattr(manifest, f"{medium}_token_id")
        if (actual := tokenizer.token_to_id(token)) != expected:
            yield f"{path} gives {token} the id {actual}, the manifest {expected}"


def _check_engine(folder: Path, manifest: Manifest) -> Problems:
    length = manifest.engine_arguments.get("max_model_len")
    if isinstance(length, int) and length > manifest.max_position_embeddings:
        yield f"{folder / NAME} has max_model_len {length}, the model has {manifest.max_position_embeddings} positions"
