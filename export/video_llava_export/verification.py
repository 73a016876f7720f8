"""What was written must compute what the checkpoint computes in Hugging Face's model, in float32.

Each part by itself, so that memory is bounded by one encoder: the encoders against transformers' own towers, the
language model tensor by tensor, and a small one also by its logits.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import onnxruntime
import torch
from safetensors import safe_open
from torch import nn
from transformers import LlamaForCausalLM, VideoLlavaConfig, VideoLlavaForConditionalGeneration, VideoLlavaModel

from .checkpoint import Checkpoint
from .errors import VerificationError
from .graph import Precision
from .language_model import LanguageModel
from .names import PROJECTOR
from .tensors import Tensors, find_weight_files

# Relative to the reference's norm. Sound exports stay well below: 1e-5, 1e-3, 3e-2.
TOLERANCES = {Precision.FP32: 1e-4, Precision.FP16: 1e-2, Precision.INT8: 1e-1}
NUM_PROMPT_TOKENS = 48
NUM_IMAGES = 2
# Models up to this size are also compared by their logits, for which both sides are loaded in float32.
MAX_COMPARED_BYTES = 500_000_000


@dataclass(frozen=True)
class Probe:
    """The input that both sides get.

    `video` uint8, shape = (1, frames, H, W, 3); `images` uint8, shape = (1, images, H, W, 3);
    `token_ids` int64, shape = (1, tokens), without placeholders.
    """

    video: np.ndarray
    images: np.ndarray
    token_ids: torch.Tensor

    def frames(self, medium: str) -> np.ndarray:
        """What the encoder of `medium` gets."""
        return self.video if medium == "video" else self.images


@dataclass(frozen=True)
class Difference:
    """How far one written part is from the reference: largest absolute, and Frobenius norm relative to it."""

    part: str
    absolute: float
    relative: float

    @classmethod
    def between(cls, part: str, actual: np.ndarray, expected: np.ndarray) -> "Difference":
        """Compare two arrays of one shape; `VerificationError` if the shapes differ."""
        if actual.shape != expected.shape:
            raise VerificationError(f"{part} gives shape {actual.shape}, the checkpoint {expected.shape}")
        difference = actual.astype(np.float64) - expected
        return cls(part, float(abs(difference).max()), float(np.linalg.norm(difference) / np.linalg.norm(expected)))

    def check(self, tolerance: float) -> None:
        """Raise `VerificationError` above `tolerance`, and for what is not a number."""
        if not self.relative <= tolerance:
            raise VerificationError(
                f"{self.part} differs from the checkpoint by {self.relative:.1e} relative, tolerated are "
                f"{tolerance:.1e}; nothing was installed"
            )


def make_probe(checkpoint: Checkpoint, *, frames: np.ndarray | None = None, seed: int = 0) -> Probe:
    """Random tokens, and `frames` uint8, shape = (frames, H, W, 3), of a real video, or random pixels."""
    config = checkpoint.config
    random = np.random.default_rng(seed)
    size = config.image_size
    num_tokens = min(NUM_PROMPT_TOKENS, config.text.max_position_embeddings)
    token_ids = random.integers(0, min(config.image_token_id, config.video_token_id), (1, num_tokens))
    if frames is None:
        frames = random.integers(0, 256, (config.num_frames + NUM_IMAGES, size, size, 3), dtype=np.uint8)
    return Probe(
        video=frames[None, : config.num_frames],
        images=frames[None, -NUM_IMAGES:],
        token_ids=torch.from_numpy(token_ids),
    )


@torch.inference_mode()
def reference_features(checkpoint: Checkpoint, medium: str, frames: np.ndarray) -> np.ndarray:
    """What transformers makes of frames uint8, shape = (1, frames, H, W, 3): float32, shape = (1, rows, hidden).

    The model is there without its weights, except for the tower of `medium` and the projector.
    """
    with torch.device("meta"):
        model = VideoLlavaModel(_transformers_config(checkpoint)).eval()
    for name in (f"{medium}_tower.", PROJECTOR):
        _fill(model.get_submodule(name.removesuffix(".")), name, checkpoint.tensors)
    pixels = cast(torch.FloatTensor, checkpoint.preprocessing.normalise(torch.from_numpy(frames[0])))
    if medium == "video":
        return _as_rows(model.get_video_features(pixel_values_videos=cast(torch.FloatTensor, pixels[None])))
    return _as_rows(model.get_image_features(pixel_values_images=pixels))


def _transformers_config(checkpoint: Checkpoint) -> VideoLlavaConfig:
    config = VideoLlavaConfig.from_pretrained(checkpoint.folder)
    config.tie_word_embeddings = checkpoint.config.tied_embeddings
    return config


def _fill(module: nn.Module, prefix: str, tensors: Tensors) -> None:
    module.to_empty(device="cpu")
    for name, parameter in module.named_parameters():
        # What features do not need (the last layer, the last norm), a checkpoint may lack.
        stored = prefix + name.removeprefix("vision_model.")
        if stored in tensors:
            parameter.copy_(tensors[stored].read())
    for name, buffer in module.named_buffers():
        assert name.endswith("position_ids"), f"{name} would have to be filled"
        buffer.copy_(torch.arange(buffer.shape[-1]).expand(buffer.shape))


def _as_rows(features: Any) -> np.ndarray:
    """Features as the graphs lay them out; transformers 4 gives the tensor itself, 5 an output around it."""
    tensor = getattr(features, "pooler_output", features)
    return tensor.reshape(1, -1, tensor.shape[-1]).numpy()


@torch.inference_mode()
def reference_logits(checkpoint: Checkpoint, token_ids: torch.Tensor) -> np.ndarray:
    """Logits of the whole model in float32, shape = (1, tokens, vocabulary)."""
    model = VideoLlavaForConditionalGeneration.from_pretrained(
        checkpoint.folder, config=_transformers_config(checkpoint), dtype=torch.float32
    )
    return model.eval()(input_ids=token_ids).logits.numpy()


def compare_encoder(part: str, path: Path, frames: np.ndarray, expected: np.ndarray) -> Difference:
    """Run the graph at `path` over frames uint8, shape = (1, frames, H, W, 3)."""
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (features,) = session.run(None, {"frames": frames})
    return Difference.between(part, np.asarray(features), expected)


def can_compare_logits(model: LanguageModel) -> bool:
    """Whether the language model is plain, and small enough to be loaded twice."""
    return model.quantization is None and model.num_bytes <= MAX_COMPARED_BYTES


@torch.inference_mode()
def compare_language_model(part: str, folder: Path, token_ids: torch.Tensor, expected: np.ndarray) -> Difference:
    """Load the plain Llama in `folder` in float32 and compare its logits."""
    model = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    return Difference.between(part, model(input_ids=token_ids).logits.numpy(), expected)


def check_tensors(model: LanguageModel, folder: Path) -> None:
    """Every tensor in `folder` must be its source bit for bit, and none may be missing or extra."""
    names = set(model.tensors)
    for path in find_weight_files(folder):
        with safe_open(path, framework="pt") as header:
            stored = list(header.keys())
        for name in stored:
            # Opened anew for each, so that no more than one tensor stays mapped.
            with safe_open(path, framework="pt") as file:
                if name not in names or not _same_bits(file.get_tensor(name), model.tensors[name].read()):
                    raise VerificationError(f"the written {name} is not the checkpoint's; check the disk")
            names.remove(name)
    if names:
        raise VerificationError(f"{len(names)} tensors were not written, {min(names)} first; check the disk")


def _same_bits(actual: torch.Tensor, expected: torch.Tensor) -> bool:
    """Also for NaN, which differs from itself."""
    if actual.dtype != expected.dtype or actual.shape != expected.shape:
        return False
    return torch.equal(actual.view(-1).view(torch.uint8), expected.contiguous().view(-1).view(torch.uint8))


def format_table(differences: list[Difference]) -> str:
    """The differences as lines of text, one part each."""
    lines = [f"{'part':<16}{'largest difference':>20}{'relative (norm)':>18}"]
    lines += [f"{row.part:<16}{row.absolute:>20.1e}{row.relative:>18.1e}" for row in differences]
    return "\n".join(lines)
