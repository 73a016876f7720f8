"""A quantised checkpoint that vLLM has no kernel for on this machine: the start says so."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from support.export import ENGINE_ARGUMENTS, FREE_PORTS, export
from video_llava_export.integers import is_projection
from video_llava_serve import LocalServer, StartError


@pytest.fixture
def w8a16(checkpoint: Path, tmp_path: Path) -> Path:
    """The random checkpoint with weights of 8 bits and activations of 16, four numbers in each int32."""
    folder = Path(shutil.copytree(checkpoint, tmp_path / "w8a16"))
    tensors = load_file(folder / "model.safetensors")
    for name in [name for name in tensors if "language_model" in name and is_projection(name)]:
        weight = tensors.pop(name)
        scale = weight.abs().amax(1, keepdim=True) / 127
        numbers = (weight / scale).round().to(torch.int32) + 128
        packed = sum(numbers[:, place::4] << (8 * place) for place in range(4))
        tensors[f"{name}_packed"] = torch.as_tensor(packed, dtype=torch.int32)
        tensors[f"{name}_scale"] = scale.bfloat16()
        tensors[f"{name}_shape"] = torch.tensor(weight.shape)
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    weights = {"num_bits": 8, "type": "int", "strategy": "channel", "symmetric": True, "dynamic": False}
    config["quantization_config"] = {
        "quant_method": "compressed-tensors",
        "format": "pack-quantized",
        "quantization_status": "compressed",
        "config_groups": {"group_0": {"targets": ["Linear"], "weights": weights}},
        "ignore": ["lm_head", "re:.*vision.*", "re:.*tower.*", "re:.*multi_modal_projector.*"],
    }
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return folder


def test_the_start_says_that_no_kernel_takes_it(w8a16, tmp_path):
    model = export(w8a16, tmp_path / "models")
    server = LocalServer(
        model=model,
        engine_arguments=ENGINE_ARGUMENTS | {"dtype": "bfloat16"},
        log_path=tmp_path / "server.log",
        **FREE_PORTS,
    )
    with pytest.raises(StartError, match=r"'vicuna' does not load: ValueError: Failed to find a kernel .* WNA16"):
        server.start()
