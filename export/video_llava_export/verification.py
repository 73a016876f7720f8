"""What was written must compute what the checkpoint computes in Hugging Face's model, in float32."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import onnxruntime
import torch
from safetensors import safe_open
from transformers import LlamaForCausalLM, VideoLlavaConfig, VideoLlavaForConditionalGeneration

from .checkpoint import Checkpoint
from .errors import VerificationError
from .language_model import LanguageModel
from .tensors import find_weight_files

# Relative to the reference's norm, in float32. Sound exports stay below 1e-5.
TOLERANCE = 1e-4
NUM_PROMPT_TOKENS = 48
NUM_IMAGES = 2


@dataclass(frozen=True)
class Probe:
    """The input that both sides get.

    `video` uint8, shape = (1, frames, H, W, 3); `images` uint8, shape = (1, images, H, W, 3);
    `token_ids` int64, shape = (1, tokens), without placeholders.
    """

    video: np.ndarray
    images: np.ndarray
    token_ids: torch.Tensor


@dataclass(frozen=True)
class Reference:
    """What the checkpoint itself makes of a probe, all float32.

    `video_features`, shape = (1, frames * tokens, hidden); `image_features`, shape = (1, images * tokens, hidden);
    `logits`, shape = (1, tokens, vocabulary).
    """

    video_features: np.ndarray
    image_features: np.ndarray
    logits: np.ndarray


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


def make_probe(checkpoint: Checkpoint, *, seed: int = 0) -> Probe:
    """Random pixels and random tokens of the checkpoint's own sizes."""
    config = checkpoint.config
    random = np.random.default_rng(seed)
    size = config.image_size
    num_tokens = min(NUM_PROMPT_TOKENS, config.text.max_position_embeddings)
    token_ids = random.integers(0, min(config.image_token_id, config.video_token_id), (1, num_tokens))
    return Probe(
        video=random.integers(0, 256, (1, config.num_frames, size, size, 3), dtype=np.uint8),
        images=random.integers(0, 256, (1, NUM_IMAGES, size, size, 3), dtype=np.uint8),
        token_ids=torch.from_numpy(token_ids),
    )


@torch.inference_mode()
def run_reference(checkpoint: Checkpoint, probe: Probe) -> Reference:
    """Load the whole checkpoint with transformers in float32, run the probe and let it go again."""
    config = VideoLlavaConfig.from_pretrained(checkpoint.folder)
    config.tie_word_embeddings = checkpoint.config.tied_embeddings
    model = VideoLlavaForConditionalGeneration.from_pretrained(checkpoint.folder, config=config, dtype=torch.float32)
    model.eval()
    video, images = (
        cast(torch.FloatTensor, checkpoint.preprocessing.normalise(torch.from_numpy(frames)))
        for frames in (probe.video, probe.images[0])
    )
    return Reference(
        video_features=_as_rows(model.model.get_video_features(pixel_values_videos=video)),
        image_features=_as_rows(model.model.get_image_features(pixel_values_images=images)),
        logits=model(input_ids=probe.token_ids).logits.numpy(),
    )


def _as_rows(features: Any) -> np.ndarray:
    """Features as the graphs lay them out; transformers 4 gives the tensor itself, 5 an output around it."""
    tensor = getattr(features, "pooler_output", features)
    return tensor.reshape(1, -1, tensor.shape[-1]).numpy()


def compare_encoder(part: str, path: Path, frames: np.ndarray, expected: np.ndarray) -> Difference:
    """Run the graph at `path` over frames uint8, shape = (1, frames, H, W, 3)."""
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (features,) = session.run(None, {"frames": frames})
    return Difference.between(part, np.asarray(features), expected)


@torch.inference_mode()
def compare_language_model(part: str, folder: Path, token_ids: torch.Tensor, expected: np.ndarray) -> Difference:
    """Load the plain Llama in `folder` in float32 and compare its logits."""
    model = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    return Difference.between(part, model(input_ids=token_ids).logits.numpy(), expected)


def check_tensors(model: LanguageModel, folder: Path) -> None:
    """Every tensor in `folder` must be its source bit for bit, and none may be missing or extra."""
    names = set(model.tensors)
    for path in find_weight_files(folder):
        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118 - no mapping
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
