"""The whole export: a checkpoint becomes a model folder."""

from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase
from video_llava_server.manifest import ENCODERS, LANGUAGE_MODEL, FileFacts, Manifest, encoder_path

from .checkpoint import Checkpoint
from .comparison import Difference
from .encoder import load_encoder
from .external_weights import share_weights
from .files import facts_of
from .graph import Precision, write_graph
from .language_model import Dtype, LanguageModel, find_language_model, write_texts
from .memory import give_back, give_back_at_once
from .model_folder import building, check_id, check_space, place, with_id
from .names import LANGUAGE_MODEL as LLAMA
from .names import PROJECTOR
from .profiles import Demand, Hardware, Profile, fit
from .progress import Progress
from .reuse import recipe_of, take_part
from .shards import MAX_SHARD_BYTES, write_shards
from .tokens import IMAGE_TOKEN, VIDEO_TOKEN, load_tokenizer, write_tokenizer
from .unused import check_unused
from .verification import Probe, can_compare_logits, make_probe, verify_encoder, verify_logits, verify_tensors

MEDIA = ("video", "image")
# One weight of an encoder on the disk; int8 has scales, and needs float32 beside it while it is made.
_WEIGHT_BYTES = {Precision.FP32: 4.0, Precision.FP16: 2.0, Precision.INT8: 1.1}
_INT8_SCRATCH = 4.0 / 1.1
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
    give_back_at_once()
    model = find_language_model(checkpoint.tensors, checkpoint.config, dtype=options.dtype)
    tokenizer = load_tokenizer(checkpoint.parts.tokenizer, checkpoint.config)
    for note in (*checkpoint.notes, check_unused(checkpoint, model)):
        if note is not None:
            progress.report(note)
    return _Export(checkpoint, model, tokenizer, options, progress).run(into)


@dataclass(frozen=True)
class _Export:
    """One export; its steps in order."""

    checkpoint: Checkpoint
    model: LanguageModel
    tokenizer: PreTrainedTokenizerBase
    options: ExportOptions
    progress: Progress

    def run(self, into: Path) -> Exported:
        profile = self._fit_profile()
        arguments = (profile.arguments if profile else {}) | self.options.engine_arguments
        # What is exact in float32 stays so; an engine in 16 bits would round the features anyway.
        runs_in_float32 = arguments.get("dtype", self.model.dtype) == "float32"
        features_dtype = torch.float32 if runs_in_float32 else torch.float16
        recipes = self._recipes(features_dtype)
        with building(into, report=self.progress.report) as folder:
            linked = take_part(LANGUAGE_MODEL, recipes[LANGUAGE_MODEL], folder, report=self.progress.report)
            check_space(folder, self._needed_bytes(0 if linked else self.model.num_bytes))
            probe = make_probe(self.checkpoint, frames=self.options.probe_frames)
            files, differences = self._make_encoders(folder, features_dtype, probe, recipes[ENCODERS])
            written, compared = self._make_language_model(folder / LANGUAGE_MODEL, probe, linked)
            files |= written
            described = {path.relative_to(folder).as_posix(): files[path] for path in sorted(files)}
            manifest = self._describe(profile, arguments, features_dtype, described, recipes)
            target = place(folder, into, manifest, report=self.progress.report)
            return Exported(target, differences + compared)

    def _recipes(self, features_dtype: torch.dtype) -> dict[str, str]:
        """By part: everything that decides which bytes its weights have."""
        checkpoint, options, program = self.checkpoint, self.options, created_by()
        tensors = {name: checkpoint.tensors[name] for name in checkpoint.tensors if not name.startswith(LLAMA)}
        return {
            ENCODERS: recipe_of(
                program, checkpoint.config.raw, checkpoint.preprocessing, tensors, options.precision, features_dtype
            ),
            LANGUAGE_MODEL: recipe_of(program, self.model.tensors, options.max_shard_bytes),
        }

    def _fit_profile(self) -> Profile | None:
        if self.options.hardware is None:
            return None
        encoder_bytes = sum(map(self._encoder_bytes, MEDIA))
        demand = Demand.of(
            self.model,
            self.checkpoint.config,
            encoder_bytes=encoder_bytes,
            kv_cache_dtype=self.options.engine_arguments.get("kv_cache_dtype", "auto"),
        )
        profile = fit(self.options.hardware, demand)
        self.progress.report("\n".join(f"profile {profile.name}: {sentence}" for sentence in profile.why))
        return profile

    def _encoder_bytes(self, medium: str) -> int:
        tensors = self.checkpoint.tensors
        names = [name for name in tensors if name.startswith((f"{medium}_tower.", PROJECTOR))]
        return int(_WEIGHT_BYTES[self.options.precision] * sum(prod(tensors[name].shape) for name in names))

    def _needed_bytes(self, language_model_bytes: int) -> int:
        encoders = [self._encoder_bytes(medium) for medium in MEDIA]
        scratch = _INT8_SCRATCH * max(encoders) if self.options.precision is Precision.INT8 else 0
        return language_model_bytes + sum(encoders) + int(scratch) + _SPARE_BYTES

    def _make_encoders(
        self, folder: Path, features_dtype: torch.dtype, probe: Probe, recipe: str
    ) -> tuple[dict[Path, FileFacts], list[Difference]]:
        """Those of an earlier export were verified there; they are compared again on frames that the user gives."""
        copied = take_part(ENCODERS, recipe, folder, report=self.progress.report)
        files = copied or self._write_encoders(folder, features_dtype)
        if copied and self.options.probe_frames is None:
            return files, []
        return files, self._verify_encoders(folder, probe)

    def _write_encoders(self, folder: Path, features_dtype: torch.dtype) -> dict[Path, FileFacts]:
        for medium in MEDIA:
            with self.progress.step(f"{medium}_encoder") as step:
                step.advance(self._write_encoder(medium, folder / encoder_path(medium), features_dtype))
            give_back()
        video, image = (folder / encoder_path(medium) for medium in MEDIA)
        share_weights(video, image)
        return {path: facts_of(path) for path in video.parent.iterdir()}

    def _write_encoder(self, medium: str, path: Path, features_dtype: torch.dtype) -> int:
        """Returns the size in bytes of the graph and its weights."""
        checkpoint, config, precision = self.checkpoint, self.checkpoint.config, self.options.precision
        return write_graph(
            load_encoder(
                medium,
                checkpoint.tensors,
                config,
                checkpoint.preprocessing,
                dtype=precision.torch_dtype,
                features_dtype=features_dtype,
            ),
            path,
            medium=medium,
            image_size=config.image_size,
            tokens_per_frame=config.tokens_per_frame if medium == "video" else config.tokens_per_image,
            precision=precision,
        )

    def _verify_encoders(self, folder: Path, probe: Probe) -> list[Difference]:
        differences = []
        for medium in MEDIA:
            with self.progress.step(f"{medium}_encoder ="):
                path, precision = folder / encoder_path(medium), self.options.precision
                differences.append(verify_encoder(self.checkpoint, medium, path, probe, precision=precision))
            give_back()
        return differences

    def _make_language_model(
        self, folder: Path, probe: Probe, linked: dict[Path, FileFacts] | None
    ) -> tuple[dict[Path, FileFacts], list[Difference]]:
        """Shards that are `linked` stay as they are."""
        files = write_texts(self.model, self.checkpoint.parts.generation, folder, self.checkpoint.config)
        files |= write_tokenizer(self.tokenizer, folder)
        if linked:
            return files | linked, []
        with self.progress.step("vicuna") as step:
            advance = step.expect(self.model.num_bytes)
            shard_bytes = self.options.max_shard_bytes
            files |= write_shards(self.model.tensors, folder, max_shard_bytes=shard_bytes, advance=advance)
            verify_tensors(self.model, folder)
        if self.options.dtype is Dtype.KEEP and can_compare_logits(self.model):
            with self.progress.step("vicuna ="):
                return files, [verify_logits(self.checkpoint, folder, probe)]
        return files, []

    def _describe(
        self,
        profile: Profile | None,
        arguments: dict[str, Any],
        features_dtype: torch.dtype,
        files: dict[str, FileFacts],
        recipes: dict[str, str],
    ) -> Manifest:
        config, precision = self.checkpoint.config, self.options.precision.word
        manifest = Manifest(
            id=self.options.model_id or "",
            created_by=created_by(),
            source=self.checkpoint.source,
            revision=self.checkpoint.revision,
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
            dtypes={
                "video_encoder": precision,
                "image_encoder": precision,
                "features": str(features_dtype).removeprefix("torch."),
                "vicuna": self.model.dtype,
            },
            quantization=(self.model.quantization or {}).get("quant_method"),
            profile=asdict(profile) if profile else None,
            engine_arguments=arguments,
            files=files,
            conventions=config.conventions,
            recipes=recipes,
        )
        return with_id(manifest)


def created_by() -> str:
    """This program and its version."""
    try:
        return f"video-llava-export {version('video-llava-triton')}"
    except PackageNotFoundError:
        return "video-llava-export (not installed)"
