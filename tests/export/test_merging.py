"""Merged weights are those of PEFT's own merge, bit for bit."""

import re
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from support.adapters import NAMES_OF_VERSION_4, make_adapter, merge_with_peft
from video_llava_export.adapter import open_adapter
from video_llava_export.merging import merge
from video_llava_export.tensors import Tensors

LLAMA = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
# Of the language model, the towers, the projector, the head and the embeddings.
KINDS = {
    "one module": {"target_modules": ["q_proj"]},
    "all-linear": {"target_modules": "all-linear"},
    "rsLoRA": {"target_modules": LLAMA, "use_rslora": True, "r": 16},
    "DoRA": {"target_modules": "all-linear", "use_dora": True},
    "rsDoRA": {"target_modules": LLAMA, "use_dora": True, "use_rslora": True},
    "ranks and alphas": {
        "target_modules": LLAMA,
        "rank_pattern": {"q_proj": 4, r"layers\.1\.mlp\.up_proj": 3},
        "alpha_pattern": {"v_proj": 5, r"layers\.2\..*": 7},
    },
    "projector whole": {"target_modules": LLAMA, "modules_to_save": ["multi_modal_projector"]},
    "head and embeddings": {"target_modules": ["q_proj", "lm_head", "embed_tokens"]},
    "DoRA of head and embeddings": {"target_modules": ["lm_head", "embed_tokens"], "use_dora": True},
    "head and embeddings whole": {"target_modules": LLAMA, "modules_to_save": ["lm_head", "embed_tokens"]},
    "one tower": {"target_modules": r".*video_tower.*(q_proj|v_proj|fc1)"},
    "positions": {"target_modules": ["position_embedding", "fc1"]},
    "fan_in_fan_out": {"target_modules": LLAMA, "fan_in_fan_out": True},
    "all biases": {"target_modules": ["q_proj", "linear_1"], "bias": "all"},
    "biases of LoRA": {"target_modules": ["q_proj", "linear_1"], "bias": "lora_only"},
    "some layers": {"target_modules": LLAMA, "layers_to_transform": [1, 3]},
    "gaussian": {"target_modules": LLAMA, "init_lora_weights": "gaussian"},
    "orthogonal": {"target_modules": LLAMA, "init_lora_weights": "orthogonal"},
}


def merged_tensors(checkpoint, adapter):
    tensors = Tensors(checkpoint)
    return {name: tensor.read() for name, tensor in merge(open_adapter(adapter), tensors).items()}


def assert_same(merged, expected):
    assert merged
    for name, tensor in merged.items():
        assert tensor.dtype == expected[name].dtype, name
        assert torch.equal(tensor, expected[name]), name


@pytest.fixture(scope="session")
def bases(small_checkpoint, tmp_path_factory):
    """The small checkpoint in each dtype."""

    def write(dtype):
        folder = tmp_path_factory.mktemp("base") / "base"
        shutil.copytree(small_checkpoint, folder)
        tensors = load_file(folder / "model.safetensors")
        save_file(
            {name: tensor.to(dtype) for name, tensor in tensors.items()}, folder / "model.safetensors", {"format": "pt"}
        )
        return folder

    return {
        torch.float32: small_checkpoint,
        torch.float16: write(torch.float16),
        torch.bfloat16: write(torch.bfloat16),
    }


@pytest.mark.parametrize("kind", KINDS)
def test_merge_is_pefts(bases, tmp_path, kind):
    base = bases[torch.float32]
    adapter = make_adapter(base, tmp_path, **KINDS[kind])
    merged, expected = merged_tensors(base, adapter), merge_with_peft(base, adapter)
    assert_same(merged, expected)
    # Nothing else changes.
    tensors = Tensors(base)
    assert all(torch.equal(tensors[name].read(), expected[name]) for name in expected if name not in merged)


@pytest.mark.parametrize(
    ("base_dtype", "adapter_dtype"),
    [(torch.float16, torch.float32), (torch.bfloat16, torch.bfloat16), (torch.bfloat16, torch.float16)],
    ids=str,
)
@pytest.mark.parametrize(
    "kind", ["all-linear", "DoRA", "head and embeddings", "DoRA of head and embeddings", "projector whole"]
)
def test_merge_into_sixteen_bits_is_pefts(bases, tmp_path, kind, base_dtype, adapter_dtype):
    adapter = make_adapter(bases[base_dtype], tmp_path, **KINDS[kind])
    weights = adapter / "adapter_model.safetensors"
    save_file({name: tensor.to(adapter_dtype) for name, tensor in load_file(weights).items()}, weights)
    merged = merged_tensors(bases[base_dtype], adapter)
    assert_same(merged, merge_with_peft(bases[base_dtype], adapter, dtype=base_dtype))


def test_adapter_of_transformers_4_merges_the_same(small_checkpoint, tmp_path):
    adapter = make_adapter(small_checkpoint, tmp_path, **KINDS["projector whole"])
    expected = merged_tensors(small_checkpoint, adapter)
    weights = adapter / "adapter_model.safetensors"
    tensors = load_file(weights)
    for pattern, replacement in NAMES_OF_VERSION_4.items():
        tensors = {re.sub(pattern, replacement, name): tensor for name, tensor in tensors.items()}
    assert not any(name.startswith("base_model.model.model.") for name in tensors)
    save_file(tensors, weights)
    merged = merged_tensors(small_checkpoint, adapter)
    assert merged.keys() == expected.keys()
    assert_same(merged, expected)
