"""Verification of a model folder while it is exported: it must compute what Hugging Face's model does, in float32.

Each part by itself, so that memory is bounded by one encoder: the encoders by their features, the language model tensor
by tensor, and a small one also by its logits.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from transformers import LlamaForCausalLM

from .checkpoint import Checkpoint
from .comparison import Difference
from .errors import VerificationError
from .graph import INPUT, Precision
from .language_model import LanguageModel
from .memory import give_back
from .reference import reference_features, reference_logits
from .tensors import stored_tensors

# Relative to the reference's norm. Sound exports stay well below: 1e-5, 1e-3, 3e-2.
TOLERANCES = {Precision.FP32: 1e-4, Precision.FP16: 1e-2, Precision.INT8: 1e-1}
# Of features that are rounded to float16.
HALF_PRECISION_TOLERANCE = 1e-3
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


def verify_encoder(
    checkpoint: Checkpoint, medium: str, path: Path, probe: Probe, *, precision: Precision
) -> Difference:
    """Run the graph at `path`; `VerificationError` above the tolerance of `precision`."""
    frames = probe.frames(medium)
    expected = reference_features(checkpoint, medium, frames)
    give_back()
    config = checkpoint.config
    features = _run(path, frames, at_a_time=config.num_frames if config.has_temporal_attention else 1)
    tolerance = TOLERANCES[precision]
    if features.dtype == np.float16:
        tolerance = max(tolerance, HALF_PRECISION_TOLERANCE)
    difference = Difference.between(f"{medium}_encoder", features, expected)
    difference.check(tolerance)
    return difference


def _run(path: Path, frames: np.ndarray, *, at_a_time: int) -> np.ndarray:
    """The features of the graph at `path`, in as little memory as it can: of eight frames, activations are 100 MB."""
    options = onnxruntime.SessionOptions()
    options.enable_cpu_mem_arena = options.enable_mem_pattern = False
    # It would keep a second copy of all weights.
    options.add_session_config_entry("session.disable_prepacking", "1")
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    parts = [
        np.asarray(session.run(None, {INPUT: frames[:, first : first + at_a_time]})[0])
        for first in range(0, frames.shape[1], at_a_time)
    ]
    return np.concatenate(parts, axis=1)


def can_compare_logits(model: LanguageModel) -> bool:
    """Whether the language model is plain, and small enough to be loaded twice."""
    return model.quantization is None and model.num_bytes <= MAX_COMPARED_BYTES


@torch.inference_mode()
def verify_logits(checkpoint: Checkpoint, folder: Path, probe: Probe) -> Difference:
    """Load the plain Llama in `folder` in float32 and compare its logits; raises `VerificationError`."""
    expected = reference_logits(checkpoint, probe.token_ids)
    model = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    difference = Difference.between("vicuna", model(input_ids=probe.token_ids).logits.numpy(), expected)
    difference.check(TOLERANCES[Precision.FP32])
    return difference


def verify_tensors(model: LanguageModel, folder: Path) -> None:
    """Every tensor must be in `folder`, with its shape and dtype, as safetensors itself reads it, and no other.

    That their bytes are those of the checkpoint, `write_shards` has verified.
    """
    written = {stored.name: (stored.shape, stored.dtype) for stored in stored_tensors(folder)}
    expected = {name: (tensor.shape, tensor.dtype) for name, tensor in model.tensors.items()}
    if wrong := sorted(name for name in {*written, *expected} if written.get(name) != expected.get(name)):
        raise VerificationError(
            f"{len(wrong)} tensors were not written as they are, {wrong[0]} first: {written.get(wrong[0])}, expected "
            f"{expected.get(wrong[0])}; check the disk"
        )
