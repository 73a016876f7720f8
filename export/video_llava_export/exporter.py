"""The whole export: a checkpoint becomes the parts of a model repository that git does not hold."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from .checkpoint import Checkpoint
from .encoder import load_encoder
from .graph import write_graph
from .language_model import MAX_SHARD_BYTES, LanguageModel, find_language_model, write_language_model
from .manifest import write_manifest
from .repository import WEIGHTS, encoder_path, find_skeleton, install, stage_skeleton, stage_vllm_arguments, staging
from .tokens import load_tokenizer, write_tokenizer
from .verification import (
    TOLERANCE,
    Difference,
    check_tensors,
    compare_encoder,
    compare_language_model,
    make_probe,
    run_reference,
)

Report = Callable[[str], None]


@dataclass(frozen=True)
class ExportOptions:
    """What an export may be told.

    `vllm_arguments` go into the engine's `model.json`; `max_shard_bytes` bounds a file of the language model;
    `tolerance` is of the norm of a difference relative to the reference's.
    """

    vllm_arguments: dict[str, Any] = field(default_factory=dict)
    max_shard_bytes: int = MAX_SHARD_BYTES
    tolerance: float = TOLERANCE
    skeleton: Path = field(default_factory=find_skeleton)


def export(
    checkpoint: Checkpoint, repository: Path, *, options: ExportOptions | None = None, report: Report = lambda _: None
) -> list[Difference]:
    """Write `checkpoint` into `repository`, verified, all of it or nothing; returns the measured differences.

    `report` gets one line a finished step. Raises an `ExportError`; an older model is then as it was.
    """
    options = options or ExportOptions()
    model = find_language_model(checkpoint.tensors, checkpoint.config)
    tokenizer = load_tokenizer(checkpoint.folder, checkpoint.config)
    with staging(repository) as staged:
        stage_skeleton(options.skeleton, repository, staged)
        if options.vllm_arguments:
            stage_vllm_arguments(options.vllm_arguments, repository, staged)
        files = _write_parts(checkpoint, model, tokenizer, staged, options, report)
        with _step("verification", report):
            differences = _verify(checkpoint, model, staged, options.tolerance)
        write_manifest(
            staged, checkpoint.config, model, source=checkpoint.source, revision=checkpoint.revision, files=files
        )
        install(staged, repository)
    return differences


def _write_parts(
    checkpoint: Checkpoint,
    model: LanguageModel,
    tokenizer: PreTrainedTokenizerBase,
    staged: Path,
    options: ExportOptions,
    report: Report,
) -> list[Path]:
    """Write both encoders and the language model below `staged`; returns their files."""
    for medium in ("video", "image"):
        with _step(f"{medium}_encoder", report, staged / encoder_path(medium)):
            _write_encoder(checkpoint, medium, staged / encoder_path(medium))
    with _step("vicuna", report, staged / WEIGHTS):
        write_language_model(
            model, checkpoint.folder, staged / WEIGHTS, checkpoint.config, max_shard_bytes=options.max_shard_bytes
        )
        write_tokenizer(tokenizer, staged / WEIGHTS)
    graphs = [staged / encoder_path(medium) for medium in ("video", "image")]
    return graphs + _files_below(staged / WEIGHTS)


def _write_encoder(checkpoint: Checkpoint, medium: str, path: Path) -> None:
    config = checkpoint.config
    encoder = load_encoder(medium, checkpoint.tensors, config, checkpoint.preprocessing)
    tokens = config.tokens_per_frame if medium == "video" else config.tokens_per_image
    write_graph(encoder, path, medium=medium, image_size=config.image_size, tokens_per_frame=tokens)


def _verify(checkpoint: Checkpoint, model: LanguageModel, staged: Path, tolerance: float) -> list[Difference]:
    check_tensors(model, staged / WEIGHTS)
    probe = make_probe(checkpoint)
    reference = run_reference(checkpoint, probe)
    video, image = (staged / encoder_path(medium) for medium in ("video", "image"))
    differences = [
        compare_encoder("video_encoder", video, probe.video, reference.video_features),
        compare_encoder("image_encoder", image, probe.images, reference.image_features),
        compare_language_model("vicuna", staged / WEIGHTS, probe.token_ids, reference.logits),
    ]
    for difference in differences:
        difference.check(tolerance)
    return differences


@contextmanager
def _step(name: str, report: Report, written: Path | None = None) -> Iterator[None]:
    start = time.perf_counter()
    yield
    seconds = time.perf_counter() - start
    size = "" if written is None else f"{sum(path.stat().st_size for path in _files_below(written)) / 1e6:,.1f} MB"
    report(f"{name:<16}{size:>14}{seconds:>9.1f} s")


def _files_below(path: Path) -> list[Path]:
    return sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]
