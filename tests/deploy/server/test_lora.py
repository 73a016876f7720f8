"""Adapters are checked before a server starts, and written with the names of the language model that vLLM loads."""

import json
import re
from contextlib import closing
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from video_llava_server.engine import Engine, read_engine_arguments
from video_llava_server.errors import InvalidArgument
from video_llava_server.lora import (
    LoraAdapter,
    check_name,
    parse_loras,
    read_loras,
    room_bytes,
    write_loras,
)
from video_llava_server.manifest import ModelFolderError

LLAMA = {
    "hidden_size": 8,
    "intermediate_size": 12,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "num_hidden_layers": 2,
}
SHAPES = {"self_attn.q_proj": (8, 8), "self_attn.v_proj": (4, 8), "mlp.up_proj": (12, 8), "mlp.down_proj": (8, 12)}
CONFIG = {"peft_type": "LORA", "r": 4, "lora_alpha": 6, "target_modules": ".*language_model.*_proj", "bias": "none"}
PREFIXES = {
    "transformers 5": "base_model.model.model.language_model.layers",
    "transformers 4": "base_model.model.language_model.model.layers",
    "the original code": "base_model.model.model.layers",
}


@pytest.fixture
def language_model(tmp_path):
    folder = tmp_path / "language_model"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(LLAMA))
    return folder


def matrices(prefix, *, rank=4, layer=1, shapes=SHAPES, **ranks):
    made = {}
    for module, (outer, inner) in shapes.items():
        own = ranks.get(module.rpartition(".")[-1], rank)
        made[f"{prefix}.{layer}.{module}.lora_A.weight"] = torch.randn(own, inner)
        made[f"{prefix}.{layer}.{module}.lora_B.weight"] = torch.randn(outer, own)
    return made


@pytest.fixture
def make(tmp_path):
    """Return `make(tensors, **config)`: writes a folder as PEFT does."""

    def make(tensors=None, **config):
        folder = tmp_path / f"adapter-{len(list(tmp_path.iterdir()))}"
        folder.mkdir()
        save_file(tensors or matrices(PREFIXES["transformers 5"]), folder / "adapter_model.safetensors")
        (folder / "adapter_config.json").write_text(json.dumps(CONFIG | config))
        return folder

    return make


@pytest.mark.parametrize("prefix", PREFIXES.values(), ids=PREFIXES)
def test_names_become_those_of_a_plain_llama_and_nothing_else_changes(make, language_model, tmp_path, prefix):
    tensors = matrices(prefix)
    LoraAdapter.open("red", make(tensors), language_model).write(tmp_path / "written")
    written = load_file(tmp_path / "written" / "adapter_model.safetensors")
    expected = {name.replace(prefix, "base_model.model.model.layers"): tensor for name, tensor in tensors.items()}
    assert written.keys() == expected.keys()
    assert all(torch.equal(written[name], tensor) for name, tensor in expected.items())
    assert json.loads((tmp_path / "written" / "adapter_config.json").read_text()) == {
        "peft_type": "LORA",
        "target_modules": ["down_proj", "q_proj", "up_proj", "v_proj"],
        "r": 4,
        "rank_pattern": {},
        "lora_alpha": 6.0,
        "alpha_pattern": {},
    }


def test_ranks_and_scales_of_modules_are_kept_under_the_new_names(make, language_model, tmp_path):
    patterns = {"rank_pattern": {"q_proj": 16}, "alpha_pattern": {r"language_model\.layers\.1\.mlp\.up_proj": 32}}
    tensors = matrices(PREFIXES["transformers 5"], q_proj=16)
    LoraAdapter.open("red", make(tensors, **patterns, use_rslora=True), language_model).write(tmp_path / "written")
    config = json.loads((tmp_path / "written" / "adapter_config.json").read_text())

    def of(module, name, default):
        found = [value for key, value in config[name].items() if re.match(rf"(.*\.)?({key})$", module)]
        return found[0] if found else config[default]

    scales = {}
    for module in SHAPES:
        name = f"model.layers.1.{module}"
        rank = of(name, "rank_pattern", "r")
        assert rank == (16 if "q_proj" in module else 4)
        scales[module] = of(name, "alpha_pattern", "lora_alpha") / rank
    expected = {"self_attn.q_proj": 6 / 4, "self_attn.v_proj": 3, "mlp.up_proj": 16, "mlp.down_proj": 3}
    assert scales == pytest.approx(expected)


TOWER = {
    "base_model.model.model.video_tower.encoder.layers.0.self_attn.q_proj.lora_A.weight": torch.ones(4, 8),
    "base_model.model.model.video_tower.encoder.layers.0.self_attn.q_proj.lora_B.weight": torch.ones(8, 4),
}
HEAD = {f"base_model.model.lm_head.lora_{side}.weight": torch.ones(4, 4) for side in "AB"}
PROJECTOR = {"base_model.model.model.multi_modal_projector.linear_1.weight": torch.ones(8, 8)}
MERGE = "; merge it into the model instead: video-llava-export CHECKPOINT --adapter DIR --into models"


@pytest.mark.parametrize(
    ("tensors", "config", "message"),
    [
        (TOWER, {}, f"it changes 1 modules that cannot be changed for a request, such as video_tower.*{MERGE}"),
        (HEAD, {}, f"such as lm_head: only linear modules of the language model's layers can{MERGE}"),
        (PROJECTOR, {"modules_to_save": ["linear_1"]}, f"such as multi_modal_projector.linear_1.weight.*{MERGE}"),
        (
            matrices(PREFIXES["transformers 5"], layer=2),
            {},
            r"changes model\.layers\.2\.\S+ of .*, this model has none: it",
        ),
        (
            matrices(PREFIXES["transformers 5"], shapes={"self_attn.v_proj": (8, 8)}),
            {},
            r"v_proj of shape \[8, 8\], this model's is \[4, 8\]: it was trained on another model",
        ),
        (matrices(PREFIXES["transformers 5"], rank=513), {"r": 513}, f"has rank 513, vLLM takes at most 512{MERGE}"),
        (None, {"peft_type": "LOHA"}, "peft_type 'LOHA'"),
        (None, {"init_lora_weights": "pissa"}, "init_lora_weights 'pissa'"),
        (
            {f"{PREFIXES['transformers 5']}.0.self_attn.q_proj.lora_magnitude_vector": torch.ones(8)}
            | matrices(PREFIXES["transformers 5"], layer=0, shapes={"self_attn.q_proj": (8, 8)}),
            {"use_dora": True},
            f"it is DoRA, which vLLM does not apply{MERGE}",
        ),
    ],
    ids=["tower", "head", "projector", "layer", "shape", "rank", "kind", "start", "DoRA"],
)
def test_what_vllm_would_not_apply_is_refused(make, language_model, tensors, config, message):
    folder = make(
        {**matrices(PREFIXES["transformers 5"]), **tensors} if tensors in (TOWER, HEAD) else tensors, **config
    )
    with pytest.raises(ModelFolderError, match=f"^--lora red={folder}: .*{message}"):
        LoraAdapter.open("red", folder, language_model)


def test_a_projector_that_the_original_code_has_trained_beside_it_is_refused(make, language_model):
    folder = make()
    (folder / "non_lora_trainables.bin").touch()
    with pytest.raises(ModelFolderError, match=f"it has weights beside LoRA, in non_lora_trainables.bin{MERGE}"):
        LoraAdapter.open("red", folder, language_model)


@pytest.mark.parametrize(("rank", "max_rank"), [(1, 1), (2, 8), (64, 64), (65, 128), (321, 512)])
def test_room_is_for_all_adapters_and_their_largest_rank(make, language_model, tmp_path, rank, max_rank):
    one = make(matrices(PREFIXES["transformers 4"], rank=1), r=1)
    other = make(matrices(PREFIXES["transformers 4"], rank=rank), r=rank)
    opened = [LoraAdapter.open(name, folder, language_model) for name, folder in (("red", one), ("blue", other))]
    assert read_loras(tmp_path) == {}
    assert write_loras(opened, tmp_path) == {
        "enable_lora": True,
        "max_lora_rank": max_rank,
        "max_loras": 2,
        "max_cpu_loras": 2,
        "lora_target_modules": ["down_proj", "q_proj", "up_proj", "v_proj"],
    }
    assert read_loras(tmp_path) == {name: str(tmp_path / "lora" / name) for name in ("red", "blue")}
    assert (tmp_path / "lora" / "blue" / "adapter_config.json").is_file()


@pytest.mark.parametrize(
    ("kinds", "num_bytes"),
    [
        (["q_proj"], 245_760),
        (["down_proj", "up_proj"], 442_368),
        (["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"], 786_432),
    ],
)
@pytest.mark.parametrize(("dtype", "factor"), [("auto", 1), ("float32", 2)])
def test_the_room_for_adapters_is_what_vllm_allocates(tmp_path, kinds, num_bytes, dtype, factor):
    """`num_bytes` were summed over `lora_a_stacked` and `lora_b_stacked` of vLLM 0.32's modules, in bfloat16."""
    sizes = {"hidden_size": 128, "intermediate_size": 256, "num_attention_heads": 4, "num_key_value_heads": 2}
    (tmp_path / "config.json").write_text(json.dumps(sizes | {"num_hidden_layers": 4}))
    arguments = {"enable_lora": True, "max_lora_rank": 16, "max_loras": 3, "lora_target_modules": kinds, "dtype": dtype}
    assert room_bytes(tmp_path, arguments) == num_bytes * factor
    assert room_bytes(tmp_path, {}) == 0


def test_on_a_cpu_the_last_place_stays_empty(make, language_model, tmp_path):
    opened = [LoraAdapter.open(name, make(), language_model) for name in ("red", "blue")]
    arguments = write_loras(opened, tmp_path) | {"model": "/nowhere", "max_loras": 1}
    (tmp_path / "model.json").write_text(json.dumps(arguments))
    read = read_engine_arguments(tmp_path / "model.json")
    assert (read.max_loras, read.max_cpu_loras) == (3, 3)


@pytest.mark.parametrize("option", ["red", "=dir", "red=", "../red=dir", ".red=dir", f"{'x' * 65}=dir", "a b=dir"])
def test_an_option_that_is_no_name_and_folder_is_refused(option):
    with pytest.raises(ModelFolderError, match="--lora takes NAME=DIR, a name of at most 64 letters"):
        parse_loras([option])


def test_a_name_stands_for_one_adapter():
    assert list(parse_loras(["red=a", "blue=b=c"])) == ["red", "blue"]
    with pytest.raises(ModelFolderError, match="'red=b': red is the name of a already"):
        parse_loras(["red=a", "red=b"])


@pytest.mark.parametrize(
    ("known", "message"),
    [((), r"the server has none \(--lora NAME=DIR\)"), (("red", "blue"), "the server has red, blue")],
)
@pytest.mark.parametrize("name", ["nobody", "", 7, ["red"]])
def test_an_unknown_name_is_refused_with_those_that_exist(name, known, message):
    with pytest.raises(InvalidArgument, match=f"lora_name is {re.escape(repr(name))}, there is no such.*: {message}"):
        check_name(name, known)
    check_name(None, known)


class Llm:
    """vLLM with adapters that change nothing, but for those that it knows."""

    def __init__(self, *known):
        self._known, self.loaded = known, []

    async def add_lora(self, request):
        self.loaded.append((request.lora_name, request.lora_int_id, request.lora_path))

    async def generate(self, *_, lora_request):
        changed = lora_request is not None and lora_request.lora_name in self._known
        yield SimpleNamespace(finished=True, outputs=[SimpleNamespace(cumulative_logprob=-2.0 - changed)])


def test_an_adapter_that_changes_no_answer_ends_the_start():
    none: Any = None
    engine: Any = Engine(none, [], loras={"red": "/r", "blue": "/b"})
    with closing(engine._loop) as loop:
        engine._llm = llm = Llm("red", "blue")
        loop.run_until_complete(engine._load_loras())
        assert llm.loaded == [("red", 1, "/r"), ("blue", 2, "/b")]
        engine._llm = Llm("red")
        with pytest.raises(ValueError, match=r"the adapter blue in /b changes no answer: .*names of its tensors"):
            loop.run_until_complete(engine._load_loras())
