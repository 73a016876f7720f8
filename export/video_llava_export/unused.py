"""No tensor of a checkpoint is left out silently: it is used, known to be without effect, or refused."""

import re

from .checkpoint import Checkpoint
from .encoder import encoder_names
from .errors import CheckpointError, name_some
from .language_model import LanguageModel
from .names import LANGUAGE_MODEL
from .tensors import hold_the_same

# The towers behind the layer whose output is used; and what older releases of transformers saved beside parameters.
_BEHIND = re.compile(r"^(video|image)_tower\.(encoder\.layers\.\d+|post_layernorm)\.")
_COMPUTED = re.compile(r"\.(position_ids|rotary_emb\.inv_freq)$")


def check_unused(checkpoint: Checkpoint, model: LanguageModel) -> str | None:
    """What the export leaves out, in one line; None: nothing.

    Raises `CheckpointError` for tensors that the model has no place for, and for trained ones that have no effect.
    """
    used = {LANGUAGE_MODEL + name for name in model.taken} | encoder_names(checkpoint.config)
    unused = [name for name in checkpoint.tensors if name not in used]
    if unknown := [name for name in unused if not _BEHIND.match(name) and not _COMPUTED.search(name)]:
        raise CheckpointError(
            f"{checkpoint.folder} holds {len(unknown)} tensors that have no place in this model: {name_some(unknown)}; "
            "they would be lost. Take config.json and weights of the same run, or remove them if they are not needed"
        )
    if trained := [name for name in unused if _is_trained(checkpoint, name)]:
        raise CheckpointError(
            f"{len(trained)} tensors were trained, but have no effect: {name_some(trained)}; the features are those of "
            f"layer {max(checkpoint.config.feature_layers)} (vision_feature_layer): set it as in the training"
        )
    if not unused:
        return None
    return f"{len(unused)} tensors have no effect and are left out: {name_some({_group(name) for name in unused})}"


def _is_trained(checkpoint: Checkpoint, name: str) -> bool:
    """Where that can be told: an adapter changes it, or the base has another."""
    tensor = checkpoint.tensors[name]
    if (changed := getattr(tensor, "is_changed", None)) is not None:
        return changed
    base = checkpoint.base_tensors
    return base is not None and name in base and not hold_the_same(tensor, base[name])


def _group(name: str) -> str:
    """The layer, or the tensor itself."""
    match = _BEHIND.match(name)
    return f"{match[0]}*" if match else name
