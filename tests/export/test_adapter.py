import json
import pickle
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from support.adapters import NAMES_OF_VERSION_4, make_adapter
from video_llava_export.adapter import open_adapter
from video_llava_export.errors import CheckpointError

LAYER = "base_model.model.model.language_model.layers.0"
QUERY = f"{LAYER}.self_attn.q_proj"


@dataclass(frozen=True)
class EditableAdapter:
    folder: Path

    @property
    def weights(self) -> Path:
        return self.folder / "adapter_model.safetensors"

    def configure(self, **values: Any) -> None:
        path = self.folder / "adapter_config.json"
        path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | values), encoding="utf-8")

    def edit(self, **tensors: torch.Tensor | None) -> None:
        """Set tensors; None removes one."""
        merged = load_file(self.weights) | tensors
        save_file({name: tensor for name, tensor in merged.items() if tensor is not None}, self.weights)

    def rename(self, rules: dict[str, str]) -> None:
        tensors = load_file(self.weights)
        for pattern, replacement in rules.items():
            tensors = {re.sub(pattern, replacement, name): tensor for name, tensor in tensors.items()}
        save_file(tensors, self.weights)


@pytest.fixture(scope="session")
def trained_adapter(small_checkpoint, tmp_path_factory) -> Path:
    """Towers, projector, language model and head; made once, to be read only."""
    folder = tmp_path_factory.mktemp("adapters") / "trained"
    return make_adapter(
        small_checkpoint,
        folder,
        r=4,
        lora_alpha=6,
        target_modules=["q_proj", "up_proj", "lm_head", "embed_tokens"],
        modules_to_save=["multi_modal_projector"],
    )


@pytest.fixture
def adapter(trained_adapter, tmp_path) -> EditableAdapter:
    return EditableAdapter(Path(shutil.copytree(trained_adapter, tmp_path / "adapter")))


def test_names_are_the_checkpoints(trained_adapter, small_checkpoint):
    opened = open_adapter(trained_adapter)
    names = load_file(small_checkpoint / "model.safetensors").keys()
    names = {re.sub(r"vision_model\.", "", name) for name in names}
    assert opened.lora.keys() | opened.whole.keys() <= names
    assert {name for name in opened.whole if "projector" in name} == {name for name in names if "projector" in name}
    query = opened.lora["language_model.model.layers.0.self_attn.q_proj.weight"]
    assert (query.rank, query.shape, query.scaling, query.is_embedding) == (4, (128, 128), 1.5, False)
    assert opened.lora["language_model.model.embed_tokens.weight"].shape == (1024, 128)
    assert {name.split(".")[0] for name in opened.outside_language_model} == {
        "video_tower",
        "image_tower",
        "multi_modal_projector",
    }


@pytest.mark.parametrize(
    "rules",
    [
        NAMES_OF_VERSION_4,
        {r"^": "module."},
        {r"^": "_orig_mod.", r"layers\.": "layers._orig_mod."},
        {r"\.weight$": ".default.weight", r"embedding_([AB])$": r"embedding_\1.default"},
        {r"projector\.": "projector.modules_to_save.default."},
    ],
    ids=["transformers 4", "DDP", "compiled", "named", "modules_to_save"],
)
def test_names_of_every_trainer_are_the_same(adapter, trained_adapter, rules):
    if r"\.weight$" in rules:  # only of LoRA's own
        rules = {r"(lora_[AB])\.weight$": r"\1.default.weight", r"embedding_([AB])$": r"embedding_\1.default"}
    adapter.rename(rules)
    renamed, expected = open_adapter(adapter.folder), open_adapter(trained_adapter)
    assert (renamed.lora.keys(), renamed.whole.keys()) == (expected.lora.keys(), expected.whole.keys())


def test_pickled_adapter_is_read(adapter, trained_adapter):
    torch.save(load_file(adapter.weights), adapter.folder / "adapter_model.bin")
    adapter.weights.unlink()
    pickled, expected = open_adapter(adapter.folder), open_adapter(trained_adapter)
    assert pickled.lora.keys() == expected.lora.keys()
    for name, pair in expected.lora.items():
        assert torch.equal(pickled.lora[name].a.read(), pair.a.read())
        assert torch.equal(pickled.lora[name].b.read(), pair.b.read())


def test_projector_that_was_trained_beside_lora_is_found(adapter, trained_adapter):
    tensors = load_file(adapter.weights)
    beside = {name: tensors.pop(name) for name in list(tensors) if "projector" in name}
    save_file(tensors, adapter.weights)
    torch.save(beside, adapter.folder / "non_lora_trainables.bin")
    found, expected = open_adapter(adapter.folder).whole, open_adapter(trained_adapter).whole
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name].read(), expected[name].read()) for name in expected)


class Command:
    def __reduce__(self):
        return print, ("run",)


@pytest.mark.parametrize(
    "content", [pickle.dumps({"a": Command()}, protocol=2), b"", b"<html>"], ids=["code", "empty", "page"]
)
def test_pickle_that_is_no_tensors_is_refused(adapter, content, capsys):
    adapter.weights.unlink()
    (adapter.folder / "adapter_model.bin").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"adapter_model\.bin (holds|is damaged|has|cannot)"):
        open_adapter(adapter.folder)
    assert not capsys.readouterr().out


def test_rank_and_alpha_of_a_module_count(small_checkpoint, tmp_path):
    folder = make_adapter(
        small_checkpoint,
        tmp_path,
        r=4,
        lora_alpha=8,
        use_rslora=True,
        target_modules=["q_proj", "v_proj"],
        rank_pattern={r"language_model\.layers\.1\.self_attn\.q_proj": 16},
        alpha_pattern={"v_proj": 32},
    )
    layer = "language_model.model.layers.1.self_attn"
    lora = open_adapter(folder).lora
    assert lora[f"{layer}.q_proj.weight"].rank == 16
    assert lora[f"{layer}.q_proj.weight"].scaling == 8 / 4
    assert lora[f"{layer}.v_proj.weight"].scaling == 32 / 2


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"peft_type": kind}, f"is an adapter of peft_type '{kind}'; supported is LORA: merge it with PEFT")
        for kind in ("LOHA", "LOKR", "IA3", "ADALORA", "PROMPT_TUNING", "PREFIX_TUNING", "BOFT")
    ]
    + [
        ({"init_lora_weights": start}, f"started with init_lora_weights '{start}', which changes the base; save it as")
        for start in ("pissa", "pissa_niter_4", "olora", "corda", "loftq", "lora_ga")
    ]
    + [
        ({name: value}, rf"has {name} .*, which is not supported; merge it with PEFT \(merge_and_unload")
        for name, value in {
            "layer_replication": [[0, 4], [2, 5]],
            "lora_bias": True,
            "trainable_token_indices": [1, 2],
            "target_parameters": ["experts.gate"],
            "alora_invocation_tokens": [5],
            "use_qalora": True,
            "use_bdlora": {"nblocks": 2},
            "megatron_config": {"a": 1},
            "an_option_of_next_year": 1,
        }.items()
    ]
    + [
        ({"r": 8}, r"shapes \(4, \d+\) and \(\d+, 4\), its adapter_config\.json says rank 8"),
        ({"use_dora": True}, r"lacks \['magnitude_vector'\] of lm_head and"),
    ],
    ids=lambda value: next(f"{key}={value[key]}" for key in value) if isinstance(value, dict) else "",
)
def test_what_is_not_merged_is_refused_by_name(adapter, values, message):
    adapter.configure(**values)
    with pytest.raises(CheckpointError, match=message):
        open_adapter(adapter.folder)


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({f"{QUERY}.lora_B.weight": None}, r"lacks \['B'\] of model\.language_model\.layers\.0\.self_attn\.q_proj"),
        (
            {f"{QUERY}.lora_B.weight": torch.zeros(0)},
            r"q_proj\.lora_B\.weight without numbers \(shape \(0,\)\), as ZeRO",
        ),
        ({f"{QUERY}.lora_magnitude_vector": torch.ones(128)}, r"has \['magnitude_vector'\] more than its adapter_conf"),
        ({f"{QUERY}.lora_B.weight": torch.zeros(128, 4, dtype=torch.int8)}, r"lora_B\.weight as I8; supported are F32"),
        ({f"{QUERY}.lora_E": torch.zeros(4)}, r"holds .*\.lora_E, which is no part of LoRA"),
        (
            {f"{QUERY}.lora_A.weight": torch.zeros(4, 3, 2, 2)},
            r"q_proj, which is a convolution \(shape \(4, 3, 2, 2\)\)",
        ),
        ({f"{QUERY}.lora_A.weight": torch.zeros(3, 128)}, r"shapes \(3, 128\) and \(128, 4\), .* says rank 4"),
    ],
    ids=["no B", "ZeRO-3", "DoRA", "int8", "AdaLoRA", "convolution", "rank"],
)
def test_tensors_that_do_not_fit_their_config_are_refused(adapter, tensors, message):
    adapter.edit(**tensors)
    with pytest.raises(CheckpointError, match=message):
        open_adapter(adapter.folder)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("adapter_config.json", b"{", r"adapter_config\.json is not JSON"),
        ("adapter_config.json", None, r"has no adapter_config\.json"),
        ("adapter_model.safetensors", b"<html>", r"adapter_model\.safetensors is damaged"),
        ("adapter_model.safetensors", None, r"has neither adapter_model\.safetensors nor adapter_model\.bin"),
    ],
)
def test_file_that_is_damaged_or_absent_is_named(adapter, name, content, message):
    if content is None:
        (adapter.folder / name).unlink()
    else:
        (adapter.folder / name).write_bytes(content)
    with pytest.raises(CheckpointError, match=message):
        open_adapter(adapter.folder)


def test_adapter_without_tensors_is_refused(adapter):
    save_file({}, adapter.weights)
    with pytest.raises(CheckpointError, match="holds no tensors; save the adapter again"):
        open_adapter(adapter.folder)
