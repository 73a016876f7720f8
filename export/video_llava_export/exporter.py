"""The whole export: a checkpoint becomes the parts of a model repository that git does not hold."""

from dataclasses import asdict, dataclass, field
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerBase

from .checkpoint import Checkpoint
from .encoder import load_encoder
from .files import FileFacts
from .graph import Precision, weights_path, write_graph
from .language_model import MAX_SHARD_BYTES, Dtype, LanguageModel, find_language_model, write_language_model
from .manifest import write_manifest
from .memory import give_back
from .names import PROJECTOR
from .profiles import Demand, Hardware, Profile, fit
from .progress import Progress
from .repository import (
    WEIGHTS,
    check_space,
    encoder_path,
    find_skeleton,
    install,
    stage_files,
    stage_vllm_arguments,
    staging,
)
from .tokens import load_tokenizer, write_tokenizer
from .verification import (
    TOLERANCES,
    Difference,
    Probe,
    can_compare_logits,
    check_tensors,
    compare_encoder,
    compare_language_model,
    make_probe,
    reference_features,
    reference_logits,
)

MEDIA = ("video", "image")
# Of one weight of an encoder on the disk. int8 has scales, and float32 beside it while it is made.
_WEIGHT_BYTES = {Precision.FP32: 4.0, Precision.FP16: 2.0, Precision.INT8: 1.1}
_SPARE_BYTES = 100_000_000


@dataclass(frozen=True)
class ExportOptions:
    """What an export may be told.

    `vllm_arguments` go into the engine's `model.json`, over those that fit `hardware`; `max_shard_bytes` bounds a file
    of the language model; `probe_frames` uint8, shape = (frames, H, W, 3), are what encoders are compared on, random
    pixels where there are none.
    """

    precision: Precision = Precision.FP32
    dtype: Dtype = Dtype.KEEP
    hardware: Hardware | None = None
    vllm_arguments: dict[str, Any] = field(default_factory=dict)
    max_shard_bytes: int = MAX_SHARD_BYTES
    probe_frames: np.ndarray | None = None
    skeleton: Path = field(default_factory=find_skeleton)


def export(
    checkpoint: Checkpoint, repository: Path, *, options: ExportOptions | None = None, progress: Progress | None = None
) -> list[Difference]:
    """Write `checkpoint` into `repository`, verified, all of it or nothing; returns the measured differences.

    Raises an `ExportError`; an older model is then as it was.
    """
    options, progress = options or ExportOptions(), progress or Progress()
    model = find_language_model(checkpoint.tensors, checkpoint.config, dtype=options.dtype)
    tokenizer = load_tokenizer(checkpoint.folder, checkpoint.config)
    if profile := _fit_profile(checkpoint, model, options):
        progress.report("\n".join(f"profile {profile.name}: {sentence}" for sentence in profile.why))
    with staging(repository, report=progress.report) as staged:
        check_space(staged, _needed_bytes(checkpoint, model, options.precision))
        stage_files(options.skeleton, repository, staged, report=progress.report)
        if arguments := (profile.arguments if profile else {}) | options.vllm_arguments:
            stage_vllm_arguments(arguments, staged)
        files = _write_parts(checkpoint, model, tokenizer, staged, options, progress)
        differences = _verify(checkpoint, model, staged, options, progress)
        write_manifest(
            staged,
            checkpoint.config,
            model,
            source=checkpoint.source,
            revision=checkpoint.revision,
            precision=options.precision,
            profile=asdict(profile) if profile else None,
            files=files,
        )
        install(staged, repository)
    return differences


def _fit_profile(checkpoint: Checkpoint, model: LanguageModel, options: ExportOptions) -> Profile | None:
    if options.hardware is None:
        return None
    encoder_bytes = sum(_encoder_bytes(checkpoint, medium, options.precision) for medium in MEDIA)
    return fit(options.hardware, Demand.of(model, checkpoint.config, encoder_bytes=encoder_bytes))


def _encoder_bytes(checkpoint: Checkpoint, medium: str, precision: Precision) -> int:
    tensors = checkpoint.tensors
    names = [name for name in tensors if name.startswith((f"{medium}_tower.", PROJECTOR))]
    return int(_WEIGHT_BYTES[precision] * sum(prod(tensors[name].shape) for name in names))


def _needed_bytes(checkpoint: Checkpoint, model: LanguageModel, precision: Precision) -> int:
    encoders = [_encoder_bytes(checkpoint, medium, precision) for medium in MEDIA]
    scratch = _encoder_bytes(checkpoint, "video", Precision.FP32) if precision is Precision.INT8 else 0
    return model.num_bytes + sum(encoders) + scratch + _SPARE_BYTES


def _write_parts(
    checkpoint: Checkpoint,
    model: LanguageModel,
    tokenizer: PreTrainedTokenizerBase,
    staged: Path,
    options: ExportOptions,
    progress: Progress,
) -> dict[Path, FileFacts]:
    """Write both encoders and the language model below `staged`; returns the facts of their files."""
    files: dict[Path, FileFacts] = {}
    for medium in MEDIA:
        with progress.step(f"{medium}_encoder") as step:
            written = _write_encoder(checkpoint, medium, staged / encoder_path(medium), options.precision)
            step.advance(sum(facts.size_bytes for facts in written.values()))
        files |= written
    with progress.step("vicuna") as step:
        files |= write_language_model(
            model,
            checkpoint.folder,
            staged / WEIGHTS,
            checkpoint.config,
            max_shard_bytes=options.max_shard_bytes,
            advance=step.expect(model.num_bytes),
        )
        files |= write_tokenizer(tokenizer, staged / WEIGHTS)
    return files


def _write_encoder(checkpoint: Checkpoint, medium: str, path: Path, precision: Precision) -> dict[Path, FileFacts]:
    config = checkpoint.config
    encoder = load_encoder(medium, checkpoint.tensors, config, checkpoint.preprocessing, dtype=precision.torch_dtype)
    write_graph(
        encoder,
        path,
        medium=medium,
        image_size=config.image_size,
        tokens_per_frame=config.tokens_per_frame if medium == "video" else config.tokens_per_image,
        precision=precision,
    )
    give_back()
    return {written: FileFacts.of(written) for written in (path, weights_path(path))}


def _verify(
    checkpoint: Checkpoint, model: LanguageModel, staged: Path, options: ExportOptions, progress: Progress
) -> list[Difference]:
    probe = make_probe(checkpoint, frames=options.probe_frames)
    differences = []
    for medium in MEDIA:
        with progress.step(f"{medium}_encoder ="):
            differences.append(_verify_encoder(checkpoint, medium, staged, probe, options.precision))
    with progress.step("vicuna =") as step:
        check_tensors(model, staged / WEIGHTS)
        step.advance(model.num_bytes)
        if options.dtype is Dtype.KEEP and can_compare_logits(model):
            expected = reference_logits(checkpoint, probe.token_ids)
            difference = compare_language_model("vicuna", staged / WEIGHTS, probe.token_ids, expected)
            difference.check(TOLERANCES[Precision.FP32])
            differences.append(difference)
    return differences


def _verify_encoder(
    checkpoint: Checkpoint, medium: str, staged: Path, probe: Probe, precision: Precision
) -> Difference:
    frames = probe.frames(medium)
    expected = reference_features(checkpoint, medium, frames)
    difference = compare_encoder(f"{medium}_encoder", staged / encoder_path(medium), frames, expected)
    give_back()
    difference.check(TOLERANCES[precision])
    return difference
