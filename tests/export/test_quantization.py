import json

import pytest
import torch
from safetensors.torch import load_file
from video_llava_export.errors import CheckpointError
from video_llava_export.exporter import ExportOptions, export
from video_llava_export.integers import GROUP_SIZE
from video_llava_export.language_model import Dtype, find_language_model
from video_llava_export.quantization import for_language_model
from video_llava_server.manifest import LANGUAGE_MODEL, Manifest

LAYER = "language_model.model.layers.0.mlp.up_proj."
CONFIG = {
    "quant_method": "compressed-tensors",
    "format": "int-quantized",
    "ignore": [
        "lm_head",
        "model.language_model.layers.1.mlp.up_proj",
        "re:.*video_tower.*",
        "re:model.language_model.x",
    ],
}


@pytest.fixture
def quantised(editable):
    """One layer int8 with a scale a channel, as compressed-tensors stores it."""
    tensors = editable.tensors()
    weight = tensors[LAYER + "weight"]
    scale = weight.abs().amax(1, keepdim=True) / 127
    tensors[LAYER + "weight"] = (weight / scale).round().to(torch.int8)
    tensors[LAYER + "weight_scale"] = scale
    editable.replace_tensors(tensors)
    editable.edit("config.json", quantization_config=CONFIG)
    return editable


@pytest.mark.usefixtures("fast_graphs")
def test_quantised_weights_pass_through(quantised, tmp_path):
    folder = export(quantised.open(), tmp_path / "models").folder
    weights = folder / LANGUAGE_MODEL
    written, source = load_file(weights / "model.safetensors"), quantised.tensors()
    assert written["model.layers.0.mlp.up_proj.weight"].dtype == torch.int8
    assert all(torch.equal(tensor, source[f"language_model.{name}"]) for name, tensor in written.items())
    assert len(written) == sum(name.startswith("language_model.") for name in source)
    config = json.loads((weights / "config.json").read_text(encoding="utf-8"))
    assert config["quantization_config"] == CONFIG | {
        "ignore": ["lm_head", "model.layers.1.mlp.up_proj", "re:.*video_tower.*", "re:x"]
    }
    assert Manifest.read(folder).quantization == "compressed-tensors"


@pytest.mark.usefixtures("fast_graphs")
def test_int8_rounds_projections_row_by_row(editable, tmp_path):
    weights = export(editable.open(), tmp_path, options=ExportOptions(dtype=Dtype.INT8)).folder / LANGUAGE_MODEL
    written, source = load_file(weights / "model.safetensors"), editable.tensors()
    weight, scale = (written[f"model.layers.0.mlp.up_proj.{leaf}"] for leaf in ("weight", "weight_scale"))
    assert (weight.dtype, scale.dtype, scale.shape) == (torch.int8, torch.float32, (weight.shape[0], 1))
    assert (weight.abs().amax(1) == 127).all()
    error = (weight * scale - source[LAYER + "weight"].float()).abs()
    assert (error <= scale / 2 * 1.001).all()
    assert written["lm_head.weight"].dtype == written["model.embed_tokens.weight"].dtype == torch.bfloat16
    config = json.loads((weights / "config.json").read_text(encoding="utf-8"))
    assert config["quantization_config"]["ignore"] == ["lm_head"]
    assert config["dtype"] == "bfloat16"


def test_a_row_of_zeros_stays_zero(editable):
    tensors = editable.tensors()
    tensors[LAYER + "weight"][3] = 0
    editable.replace_tensors(tensors)
    checkpoint = editable.open()
    model = find_language_model(checkpoint.tensors, checkpoint.config, dtype=Dtype.INT8)
    assert not model.tensors["model.layers.0.mlp.up_proj.weight"].read()[3].any()
    assert model.tensors["model.layers.0.mlp.up_proj.weight_scale"].read()[3] == 1


def unpack(packed):
    """As compressed-tensors packs them: eight numbers in an int32, the first in its lowest bits."""
    return ((packed[:, :, None] >> 4 * torch.arange(8)) & 15).flatten(1).float()


@pytest.mark.usefixtures("fast_graphs")
def test_int4_is_what_compressed_tensors_reads(editable, tmp_path):
    tensors = editable.tensors()
    tensors[LAYER + "weight"][3] = 0
    editable.replace_tensors(tensors)
    weights = export(editable.open(), tmp_path, options=ExportOptions(dtype=Dtype.INT4)).folder / LANGUAGE_MODEL
    written = load_file(weights / "model.safetensors")
    module = "model.layers.0.mlp.up_proj."
    packed, scale, zero, shape = (
        written[module + leaf] for leaf in ("weight_packed", "weight_scale", "weight_zero_point", "weight_shape")
    )
    source = tensors[LAYER + "weight"].float()
    assert tuple(shape) == source.shape
    assert (scale.dtype, scale.shape) == (torch.bfloat16, (source.shape[0], source.shape[1] // GROUP_SIZE))
    numbers = unpack(packed).unflatten(1, (-1, GROUP_SIZE))
    zeros = unpack(zero.T).T
    restored = ((numbers - zeros[:, :, None]) * scale.float()[:, :, None]).flatten(1)
    assert not restored[3].any()
    # Sixteen steps; at the ends of a range that was cut, more.
    assert (restored - source).square().mean() < 0.008 * source.square().mean()
    assert written["lm_head.weight"].dtype == written["model.embed_tokens.weight"].dtype == torch.bfloat16
    config = json.loads((weights / "config.json").read_text(encoding="utf-8"))["quantization_config"]
    assert (config["format"], config["config_groups"]["group_0"]["weights"]["group_size"]) == ("pack-quantized", 32)


def test_sizes_that_no_kernel_takes_in_int4_are_refused(editable):
    tensors = editable.tensors()
    for part, axis in (("up", 0), ("gate", 0), ("down", 1)):
        for layer in range(4):
            name = f"language_model.model.layers.{layer}.mlp.{part}_proj.weight"
            tensors[name] = tensors[name].narrow(axis, 0, 240).contiguous()
    editable.replace_tensors(tensors)
    editable.edit_part("text_config", intermediate_size=240)
    checkpoint = editable.open()
    with pytest.raises(CheckpointError, match=r"shape \(.*240.*\); int4 needs multiples of 32: take int8"):
        find_language_model(checkpoint.tensors, checkpoint.config, dtype=Dtype.INT4)


def test_awq_layers_need_no_weight(editable):
    tensors = editable.tensors()
    del tensors[LAYER + "weight"]
    tensors |= {LAYER + leaf: torch.zeros(4, 4, dtype=torch.int32) for leaf in ("qweight", "qzeros", "scales")}
    editable.replace_tensors(tensors)
    editable.edit_part("text_config", quantization_config={"quant_method": "awq", "bits": 4})
    checkpoint = editable.open()
    model = find_language_model(checkpoint.tensors, checkpoint.config)
    assert "model.layers.0.mlp.up_proj.qzeros" in model.tensors
    assert model.quantization == {"quant_method": "awq", "bits": 4}


def test_missing_quantised_layer_is_named(quantised):
    tensors = quantised.tensors()
    del tensors[LAYER + "weight"]
    quantised.replace_tensors(tensors)
    checkpoint = quantised.open()
    with pytest.raises(CheckpointError, match=r"no weight of language_model\.model\.layers\.0\.mlp\.up_proj; download"):
        find_language_model(checkpoint.tensors, checkpoint.config)


def test_method_that_is_not_passed_through_is_refused(quantised):
    quantised.edit("config.json", quantization_config={"quant_method": "hqq"})
    checkpoint = quantised.open()
    with pytest.raises(CheckpointError, match="'hqq'; supported are awq, compressed-tensors, gptq"):
        find_language_model(checkpoint.tensors, checkpoint.config)


def test_quantised_weights_are_not_converted(quantised):
    checkpoint = quantised.open()
    with pytest.raises(CheckpointError, match=r"\(compressed-tensors\), so it cannot be converted to float16"):
        find_language_model(checkpoint.tensors, checkpoint.config, dtype=Dtype.FLOAT16)


def test_config_without_lists_stays_as_it_is():
    assert for_language_model({"quant_method": "gptq", "bits": 4}) == {"quant_method": "gptq", "bits": 4}


@pytest.mark.usefixtures("fast_graphs")
def test_language_model_is_converted(editable, tmp_path):
    weights = export(editable.open(), tmp_path, options=ExportOptions(dtype=Dtype.BFLOAT16)).folder / LANGUAGE_MODEL
    written, source = load_file(weights / "model.safetensors"), editable.tensors()
    for name, tensor in written.items():
        assert torch.equal(tensor, source[f"language_model.{name}"].to(torch.bfloat16))
    assert json.loads((weights / "config.json").read_text(encoding="utf-8"))["dtype"] == "bfloat16"


@pytest.mark.usefixtures("fast_graphs")
def test_number_too_large_for_the_dtype_is_named(editable, tmp_path):
    tensors = editable.tensors()
    tensors["language_model.model.norm.weight"][3] = 1e6
    editable.replace_tensors(tensors)
    with pytest.raises(CheckpointError, match=r"weight has 1 numbers too large for float16; take bfloat16 or keep"):
        export(editable.open(), tmp_path / "models", options=ExportOptions(dtype=Dtype.FLOAT16))
    assert not list((tmp_path / "models").iterdir())
