"""Is a model repository what its export wrote? Told without loading the language model, or a server."""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import onnx
import torch
from google.protobuf import text_format
from google.protobuf.message import DecodeError
from safetensors import SafetensorError, safe_open
from tokenizers import Tokenizer
from transformers import LlamaConfig, LlamaForCausalLM

from .config import read_json
from .errors import CheckpointError, RepositoryError
from .files import FileFacts
from .graph import INPUT, OUTPUT
from .manifest import FORMAT, MANIFEST_NAME
from .progress import Progress
from .repository import VLLM_ARGUMENTS, WEIGHTS, encoder_path, workspace_of
from .tensors import find_weight_files

_model_config_pb2: Any = import_module("tritonclient.grpc.model_config_pb2")  # generated, without types

Problems = Iterator[str]


@dataclass(frozen=True)
class Checked:
    """What a repository holds, and what is wrong with it, a line each."""

    repository: Path
    manifest: dict[str, Any]
    problems: tuple[str, ...]

    @property
    def model_id(self) -> str:
        """Twelve digits that stand for all files of the model."""
        lines = (f"{name} {facts['sha256']}\n" for name, facts in sorted(self.manifest["files"].items()))
        return hashlib.sha256("".join(lines).encode()).hexdigest()[:12]

    @property
    def summary(self) -> str:
        """One line: which model it is."""
        files = self.manifest["files"].values()
        size = sum(facts["size_bytes"] for facts in files)
        revision = f" at {self.manifest['revision']}" if self.manifest.get("revision") else ""
        dtypes = ", ".join(f"{part} {dtype}" for part, dtype in self.manifest["dtypes"].items())
        return (
            f"{self.repository}: model {self.model_id} of {self.manifest['source']}{revision}, {len(files)} files, "
            f"{size / 1e9:,.2f} GB ({dtypes})"
        )


def check(repository: Path, *, hashes: bool = True, progress: Progress | None = None) -> Checked:
    """Hold every file and every number against the manifest; without `hashes` only sizes of files.

    Raises `RepositoryError` where there is no manifest that could be held against.
    """
    manifest = _read_manifest(repository)
    with (progress or Progress()).step("check") as step:
        advance = step.expect(sum(facts["size_bytes"] for facts in manifest["files"].values()))
        problems = []
        for name, facts in sorted(manifest["files"].items()):
            problems += _check_file(repository / name, FileFacts(**facts), hashes=hashes)
            advance(facts["size_bytes"])
    problems += _check_unlisted(repository, manifest)
    # What is missing or torn was named already, and cannot be looked into.
    if not problems:
        for part in (_check_graphs, _check_llama, _check_tokenizer, _check_engine, _check_configs):
            problems += part(repository, manifest)
    return Checked(repository, manifest, tuple(problems))


def _read_manifest(repository: Path) -> dict[str, Any]:
    if (workspace_of(repository.resolve()) / "old").is_dir() and not repository.exists():
        raise RepositoryError(f"{repository} was moved away by an export that was interrupted; export again")
    try:
        manifest = read_json(repository / MANIFEST_NAME)
    except CheckpointError as exc:
        raise RepositoryError(f"{repository} holds no exported model: {exc}") from exc
    if manifest.get("format") != FORMAT:
        raise RepositoryError(
            f"{repository / MANIFEST_NAME} has format {manifest.get('format')!r}, supported is {FORMAT}; export again"
        )
    return manifest


def _check_file(path: Path, expected: FileFacts, *, hashes: bool) -> Problems:
    if not path.is_file():
        yield f"{path} is missing"
    elif (size := path.stat().st_size) != expected.size_bytes:
        yield f"{path} has {size} bytes, the export wrote {expected.size_bytes}"
    elif hashes and FileFacts.of(path) != expected:
        yield f"{path} has other content than the export wrote (SHA-256)"


def _check_unlisted(repository: Path, manifest: dict[str, Any]) -> Problems:
    """vLLM reads every safetensors file that lies with the others."""
    for path in sorted((repository / WEIGHTS).rglob("*")):
        if path.is_file() and path.relative_to(repository).as_posix() not in manifest["files"]:
            yield f"{path} is not of this export; remove it"


def _check_graphs(repository: Path, manifest: dict[str, Any]) -> Problems:
    for medium, tokens in (("video", manifest["tokens_per_frame"]), ("image", manifest["tokens_per_image"])):
        path = repository / encoder_path(medium)
        try:
            model = onnx.load(path, load_external_data=False)
        except DecodeError:
            yield f"{path} is no ONNX graph"
            continue
        shapes = {tensor.name: _shape(tensor) for tensor in (*model.graph.input, *model.graph.output)}
        size = manifest["image_size"]
        if shapes.get(INPUT, [])[2:] != [size, size, 3]:
            yield f"{path} takes {INPUT} {shapes.get(INPUT)}, the manifest says [batch, frames, {size}, {size}, 3]"
        if shapes.get(OUTPUT, [])[2:] != [manifest["hidden_size"]]:
            yield f"{path} gives {OUTPUT} {shapes.get(OUTPUT)}, the manifest's hidden_size is {manifest['hidden_size']}"
        noted = {entry.key: entry.value for entry in model.metadata_props}.get("tokens_per_frame")
        if noted != str(tokens):
            yield f"{path} makes {noted} tokens of a frame, the manifest says {tokens}"


def _shape(tensor: onnx.ValueInfoProto) -> list[int | str]:
    return [dim.dim_param or dim.dim_value for dim in tensor.type.tensor_type.shape.dim]


def _check_llama(repository: Path, manifest: dict[str, Any]) -> Problems:
    path = repository / WEIGHTS / "config.json"
    raw = read_json(path)
    for name in ("hidden_size", "vocab_size", "max_position_embeddings"):
        if raw.get(name) != manifest[name]:
            yield f"{path} has {name} {raw.get(name)}, the manifest {manifest[name]}"
    try:
        found = _stored_shapes(repository / WEIGHTS)
    except (CheckpointError, SafetensorError) as exc:
        yield str(exc)
        return
    if raw.get("quantization_config"):
        return
    for name, shape in _llama_shapes(raw).items():
        if name not in found:
            yield f"{path.parent} lacks the tensor {name}"
        elif found[name] != shape:
            yield f"{path.parent}: {name} has shape {found[name]}, config.json asks for {shape}"


def _stored_shapes(folder: Path) -> dict[str, tuple[int, ...]]:
    shapes = {}
    for path in find_weight_files(folder):
        with safe_open(path, framework="pt") as file:
            shapes |= {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    return shapes


def _llama_shapes(raw: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    config = LlamaConfig.from_dict(raw)
    with torch.device("meta"):
        shapes = {name: tuple(tensor.shape) for name, tensor in LlamaForCausalLM(config).state_dict().items()}
    if config.tie_word_embeddings:
        del shapes["lm_head.weight"]
    return shapes


def _check_tokenizer(repository: Path, manifest: dict[str, Any]) -> Problems:
    path = repository / WEIGHTS / "tokenizer.json"
    tokenizer = Tokenizer.from_file(str(path))
    for medium in ("image", "video"):
        token, expected = manifest[f"{medium}_token"], manifest[f"{medium}_token_id"]
        if (actual := tokenizer.token_to_id(token)) != expected:
            yield f"{path} gives {token} the id {actual}, the manifest {expected}"


def _check_engine(repository: Path, manifest: dict[str, Any]) -> Problems:
    path = repository / VLLM_ARGUMENTS
    try:
        arguments = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as exc:
        yield f"{path} cannot be read ({exc})"
        return
    if arguments.get("model") != WEIGHTS.name:
        yield f"{path} names the model {arguments.get('model')!r}, it must be {WEIGHTS.name!r}"
    length = arguments.get("max_model_len")
    if isinstance(length, int) and length > manifest["max_position_embeddings"]:
        yield f"{path} has max_model_len {length}, the model has {manifest['max_position_embeddings']} positions"


def _check_configs(repository: Path, manifest: dict[str, Any]) -> Problems:
    for path in sorted((*repository.glob("*/config.pbtxt"), *repository.glob("*/configs/*.pbtxt"))):
        model = path.relative_to(repository).parts[0]
        try:
            config = text_format.Parse(path.read_text(encoding="utf-8"), _model_config_pb2.ModelConfig())
        except text_format.ParseError as exc:
            yield f"{path} is no model configuration ({exc})"
            continue
        if config.name not in ("", model):
            yield f"{path} names the model {config.name!r}, its folder {model!r}"
        yield from (
            f"{path} has a step of {step.model_name!r}, which is not here"
            for step in config.ensemble_scheduling.step
            if not (repository / step.model_name / "config.pbtxt").is_file()
        )
        if model in ("video_encoder", "image_encoder"):
            yield from _check_encoder_tensors(path, config, manifest)


def _check_encoder_tensors(path: Path, config: Any, manifest: dict[str, Any]) -> Problems:
    """Of a config that lists them, which the ones of this project leave to the graph."""
    size = manifest["image_size"]
    for tensors, expected in ((config.input, [size, size, 3]), (config.output, [manifest["hidden_size"]])):
        for tensor in tensors:
            dims = list(tensor.dims)[-len(expected) :]
            if any(dim not in (-1, want) for dim, want in zip(dims, expected, strict=True)):
                yield f"{path}: {tensor.name} ends in {dims}, the model in {expected}"
