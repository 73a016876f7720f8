"""The whole export: a checkpoint becomes a model folder."""

from dataclasses import asdict, dataclass, field, replace
from importlib.metadata import PackageNotFoundError, version
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerBase
from video_llava_server.manifest import LANGUAGE_MODEL, FileFacts, Manifest, encoder_path

from .checkpoint import Checkpoint
from .comparison import Difference
from .encoder import load_encoder
from .external_weights import share_weights
from .files import facts_of
from .graph import Precision, write_graph
from .language_model import MAX_SHARD_BYTES, Dtype, LanguageModel, find_language_model, write_language_model
from .memory import give_back
from .model_folder import building, check_id, check_space, default_id, place
from .names import PROJECTOR
from .profiles import Demand, Hardware, Profile, fit
from .progress import Progress
from .tokens import IMAGE_TOKEN, VIDEO_TOKEN, load_tokenizer, write_tokenizer
from .verification import can_compare_logits, make_probe, verify_encoder, verify_logits, verify_tensors

MEDIA = ("video", "image")
# Of one weight of an encoder on the disk. int8 has scales, and float32 beside it while it is made.
_WEIGHT_BYTES = {Precision.FP32: 4.0, Precision.FP16: 2.0, Precision.INT8: 1.1}
_SPARE_BYTES = 100_000_000


@dataclass(frozen=True)
class ExportOptions:
    """What an export may be told.

    `model_id` names the folder, None: `<checkpoint's name>-<digits of the content>`. `engine_arguments` of vLLM beat
    those that fit `hardware`. `max_shard_bytes` bounds a file of the language model. `probe_frames` uint8, shape =
    (frames, H, W, 3), are what the encoders are compared on; None: random pixels.
    """

    model_id: str | None = None
    precision: Precision = Precision.FP32
    dtype: Dtype = Dtype.KEEP
    hardware: Hardware | None = None
    engine_arguments: dict[str, Any] = field(default_factory=dict)
    max_shard_bytes: int = MAX_SHARD_BYTES
    probe_frames: np.ndarray | None = None


@dataclass(frozen=True)
class Exported:
    """The model folder, and the differences measured while it was verified."""

    folder: Path
    differences: list[Difference]


def export(
    checkpoint: Checkpoint, into: Path, *, options: ExportOptions | None = None, progress: Progress | None = None
) -> Exported:
    """Write `checkpoint` as a model folder in `into`, verified, all of it or nothing. Raises an `ExportError`."""
    options, progress = options or ExportOptions(), progress or Progress()
    if options.model_id is not None:
        check_id(options.model_id)
    model = find_language_model(checkpoint.tensors, checkpoint.config, dtype=options.dtype)
    tokenizer = load_tokenizer(checkpoint.folder, checkpoint.config)
    if profile := _fit_profile(checkpoint, model, options):
        progress.report("\n".join(f"profile {profile.name}: {sentence}" for sentence in profile.why))
    with building(into, report=progress.report) as folder:
        check_space(folder, _needed_bytes(checkpoint, model, options.precision))
        files = _write_parts(checkpoint, model, tokenizer, folder, options, progress)
        differences = _verify(checkpoint, model, folder, options, progress)
        manifest = _describe(checkpoint, model, options, profile, folder, files)
        return Exported(place(folder, into, manifest, report=progress.report), differences)


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
    folder: Path,
    options: ExportOptions,
    progress: Progress,
) -> dict[Path, FileFacts]:
    """Write both encoders and the language model below `folder`; returns the facts of their files."""
    for medium in MEDIA:
        with progress.step(f"{medium}_encoder") as step:
            step.advance(_write_encoder(checkpoint, medium, folder / encoder_path(medium), options.precision))
    first, second = (folder / encoder_path(medium) for medium in MEDIA)
    share_weights(first, second)
    files = {path: facts_of(path) for path in first.parent.iterdir()}
    with progress.step("vicuna") as step:
        files |= write_language_model(
            model,
            checkpoint.folder,
            folder / LANGUAGE_MODEL,
            checkpoint.config,
            max_shard_bytes=options.max_shard_bytes,
            advance=step.expect(model.num_bytes),
        )
        files |= write_tokenizer(tokenizer, folder / LANGUAGE_MODEL)
    return files


def _write_encoder(checkpoint: Checkpoint, medium: str, path: Path, precision: Precision) -> int:
    """Returns the size in bytes of the graph and its weights."""
    config = checkpoint.config
    encoder = load_encoder(medium, checkpoint.tensors, config, checkpoint.preprocessing, dtype=precision.torch_dtype)
    num_bytes = write_graph(
        encoder,
        path,
        medium=medium,
        image_size=config.image_size,
        tokens_per_frame=config.tokens_per_frame if medium == "video" else config.tokens_per_image,
        precision=precision,
    )
    give_back()
    return num_bytes


def _verify(
    checkpoint: Checkpoint, model: LanguageModel, folder: Path, options: ExportOptions, progress: Progress
) -> list[Difference]:
    probe = make_probe(checkpoint, frames=options.probe_frames)
    differences = []
    for medium in MEDIA:
        with progress.step(f"{medium}_encoder ="):
            path = folder / encoder_path(medium)
            differences.append(verify_encoder(checkpoint, medium, path, probe, precision=options.precision))
        give_back()
    with progress.step("vicuna =") as step:
        verify_tensors(model, folder / LANGUAGE_MODEL)
        step.advance(model.num_bytes)
        if options.dtype is Dtype.KEEP and can_compare_logits(model):
            differences.append(verify_logits(checkpoint, folder / LANGUAGE_MODEL, probe))
    return differences


def _describe(
    checkpoint: Checkpoint,
    model: LanguageModel,
    options: ExportOptions,
    profile: Profile | None,
    folder: Path,
    files: dict[Path, FileFacts],
) -> Manifest:
    config, precision = checkpoint.config, options.precision.word
    manifest = Manifest(
        id=options.model_id or "",
        created_by=created_by(),
        source=checkpoint.source,
        revision=checkpoint.revision,
        image_size=config.image_size,
        num_frames=config.num_frames,
        tokens_per_frame=config.tokens_per_frame,
        tokens_per_image=config.tokens_per_image,
        hidden_size=config.text.hidden_size,
        vocab_size=config.text.vocab_size,
        max_position_embeddings=config.text.max_position_embeddings,
        image_token=IMAGE_TOKEN,
        image_token_id=config.image_token_id,
        video_token=VIDEO_TOKEN,
        video_token_id=config.video_token_id,
        dtypes={"video_encoder": precision, "image_encoder": precision, "vicuna": model.dtype},
        quantization=(model.quantization or {}).get("quant_method"),
        profile=asdict(profile) if profile else None,
        engine_arguments=(profile.arguments if profile else {}) | options.engine_arguments,
        files={path.relative_to(folder).as_posix(): files[path] for path in sorted(files)},
    )
    return manifest if manifest.id else replace(manifest, id=default_id(checkpoint.source, manifest))


def created_by() -> str:
    """This program and its version."""
    try:
        return f"video-llava-export {version('video-llava-triton')}"
    except PackageNotFoundError:
        return "video-llava-export (not installed)"
