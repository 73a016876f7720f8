"""Any parameter name of transformers becomes one canonical name.

| transformers 4.x, and what `save_pretrained` still writes | transformers 5.x, in memory           |
|-----------------------------------------------------------|---------------------------------------|
| `language_model.model.layers.0…`                          | `model.language_model.layers.0…`      |
| `language_model.lm_head.weight`                           | `lm_head.weight`                      |
| `video_tower.vision_model.encoder…`                       | `model.video_tower.encoder…`          |
| `image_tower.vision_model.encoder…`                       | `model.image_tower.encoder…`          |
| `multi_modal_projector.linear_1…`                         | `model.multi_modal_projector.linear_1…` |

and of the original code (`original.py`):

| the original                                              | canonical                                |
|-----------------------------------------------------------|------------------------------------------|
| `model.layers.0…`, `model.embed_tokens…`, `model.norm…`   | `language_model.model.layers.0…`         |
| `model.video_tower.video_tower.encoder…`                  | `video_tower.encoder…`                   |
| `model.mm_projector.0…`, `model.mm_projector.2…`          | `multi_modal_projector.linear_1…`, `_2…` |

Canonical is in the first table the left column without `vision_model.`; the part behind `language_model.` is then what
a plain `LlamaForCausalLM` calls the tensor.
"""

import re

LANGUAGE_MODEL = "language_model."
PROJECTOR = "multi_modal_projector."

WRAPPERS = re.compile(r"(?<![^.])(module|_orig_mod|_fsdp_wrapped_module)\.")
"""What DistributedDataParallel, torch.compile and FSDP put into names."""
_RENAMINGS = (
    (WRAPPERS, ""),
    (re.compile(r"^model\.(?=(language_model|video_tower|image_tower|multi_modal_projector)\.)"), ""),
    (re.compile(r"^(?=lm_head\.|model\.(layers|embed_tokens|norm)\.)"), LANGUAGE_MODEL),
    (re.compile(r"^language_model\.(?!model\.|lm_head\.)"), LANGUAGE_MODEL + "model."),
    (re.compile(r"^(video|image)_tower\.(vision_model|\1_tower)\."), r"\1_tower."),
    (re.compile(r"^(model\.)?mm_projector\.0\."), PROJECTOR + "linear_1."),
    (re.compile(r"^(model\.)?mm_projector\.2\."), PROJECTOR + "linear_2."),
)


def canonical_name(name: str) -> str:
    """The canonical name of the tensor that a checkpoint calls `name`."""
    for pattern, replacement in _RENAMINGS:
        name = pattern.sub(replacement, name)
    return name


def hub_name(name: str) -> str:
    """What the hub's files call the parameter that transformers 5 calls `name`."""
    return re.sub(r"^(video|image)_tower\.", r"\1_tower.vision_model.", canonical_name(name))
