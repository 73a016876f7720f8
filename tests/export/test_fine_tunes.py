"""What training leaves behind is exported rightly, or refused with what to do."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from support.adapters import make_adapter, merge_with_peft, merged_model
from transformers import AutoTokenizer, LlamaForCausalLM
from video_llava_export.checkpoint import open_checkpoint
from video_llava_export.comparison import Difference
from video_llava_export.errors import CheckpointError
from video_llava_export.exporter import ExportOptions, export
from video_llava_export.language_model import Dtype, find_language_model
from video_llava_export.reference import reference_features, reference_logits
from video_llava_export.tokens import load_tokenizer
from video_llava_export.unused import check_unused
from video_llava_export.verification import make_probe

LAST_LAYER = "video_tower.encoder.layers.2"
QUERY = "language_model.model.layers.0.self_attn.q_proj.weight"
BITSANDBYTES = {"quant_method": "bitsandbytes", "load_in_4bit": True}


def left_out(checkpoint):
    return check_unused(checkpoint, find_language_model(checkpoint.tensors, checkpoint.config))


@pytest.fixture(scope="session")
def full_adapter(small_checkpoint, tmp_path_factory) -> Path:
    """Towers, language model and head by LoRA, the projector whole."""
    folder = tmp_path_factory.mktemp("adapter") / "tuned"
    targets = ["q_proj", "v_proj", "fc1", "up_proj", "lm_head"]
    return make_adapter(small_checkpoint, folder, target_modules=targets, modules_to_save=["multi_modal_projector"])


@pytest.fixture
def adapter(full_adapter, tmp_path) -> Path:
    """A copy that the test may spoil."""
    return Path(shutil.copytree(full_adapter, tmp_path / "adapter"))


def edit(folder: Path, **tensors: torch.Tensor) -> None:
    """Set tensors of an adapter."""
    save_file(load_file(folder / "adapter_model.safetensors") | tensors, folder / "adapter_model.safetensors")


def test_merged_model_is_exported_and_verified(run, small_checkpoint, full_adapter, tmp_path):
    code, out, err = run(small_checkpoint, "--adapter", full_adapter, "--into", tmp_path)
    assert code == 0, err
    assert f"tensors are merged with the adapter {full_adapter}" in err
    (folder,) = tmp_path.glob("tuned-*")
    assert [line.split()[0] for line in out.splitlines()[1:4]] == ["video_encoder", "image_encoder", "vicuna"]
    written = load_file(folder / "language_model/model.safetensors")
    expected = merge_with_peft(small_checkpoint, full_adapter)
    assert all(torch.equal(tensor, expected[f"language_model.{name}"]) for name, tensor in written.items())
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    assert manifest["source"] == f"{small_checkpoint} with the adapter {full_adapter}"


@torch.inference_mode()
def test_reference_of_a_merged_checkpoint_is_pefts_model(small_checkpoint, full_adapter):
    opened = open_checkpoint(str(small_checkpoint), adapter=str(full_adapter))
    peft, probe = merged_model(small_checkpoint, full_adapter).eval(), make_probe(opened)
    logits = peft(input_ids=probe.token_ids).logits.numpy()
    assert Difference.between("", reference_logits(opened, probe.token_ids), logits).relative < 1e-6
    pixels = opened.preprocessing.normalise(torch.from_numpy(probe.video))
    features = peft.model.get_video_features(pixel_values_videos=pixels).pooler_output
    features = features.reshape(1, -1, features.shape[-1]).numpy()
    assert Difference.between("", reference_features(opened, "video", probe.video), features).relative < 1e-6


@pytest.mark.usefixtures("fast_graphs")
@pytest.mark.parametrize("dtype", [Dtype.BFLOAT16, Dtype.INT8])
def test_merged_model_is_converted(small_checkpoint, full_adapter, tmp_path, dtype):
    opened = open_checkpoint(str(small_checkpoint), adapter=str(full_adapter))
    folder = export(opened, tmp_path, options=ExportOptions(dtype=dtype)).folder
    written = load_file(folder / "language_model/model.safetensors")
    expected = merge_with_peft(small_checkpoint, full_adapter)
    query = written[QUERY.removeprefix("language_model.")]
    if dtype is Dtype.INT8:
        query = query * written["model.layers.0.self_attn.q_proj.weight_scale"]
    torch.testing.assert_close(query.float(), expected[QUERY], rtol=0.01, atol=0.01)
    assert torch.equal(written["lm_head.weight"], expected["language_model.lm_head.weight"].bfloat16())


@pytest.mark.usefixtures("fast_graphs")
def test_one_tensor_is_in_memory_at_a_time(small_checkpoint, full_adapter):
    """Nothing is merged before it is read."""
    opened = open_checkpoint(str(small_checkpoint), adapter=str(full_adapter))
    held = [value for value in vars(opened.tensors).values() if isinstance(value, torch.Tensor)]
    merged = opened.tensors[QUERY]
    assert not held
    assert not any(isinstance(value, torch.Tensor) for value in vars(merged).values())
    assert merged.shape == (128, 128)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("language_model.layers.0.self", "language_model.layers.77.self", r"2 of 35 tensors do not fit the base, .*77"),
        ("base_model.model.", "base_model.model.other.", r"nothing of the base, which has no .* and 30 more; name the"),
    ],
    ids=["in part", "nothing"],
)
def test_adapter_of_another_model_is_refused(small_checkpoint, adapter, old, new, message):
    weights = adapter / "adapter_model.safetensors"
    save_file({name.replace(old, new): tensor for name, tensor in load_file(weights).items()}, weights)
    with pytest.raises(CheckpointError, match=message):
        open_checkpoint(str(small_checkpoint), adapter=str(adapter))


def test_adapter_of_other_shapes_is_refused(small_checkpoint, adapter):
    name = "base_model.model.model.language_model.layers.0.self_attn.q_proj.lora_A.weight"
    edit(adapter, **{name: torch.zeros(8, 96)})
    with pytest.raises(CheckpointError, match=r"q_proj\.weight is \(128, 96\) here and \(128, 128\) there; name"):
        open_checkpoint(str(small_checkpoint), adapter=str(adapter))


def test_magnitudes_of_another_length_are_refused(small_checkpoint, tmp_path):
    make_adapter(small_checkpoint, tmp_path, target_modules=["o_proj"], use_dora=True)
    name = "base_model.model.model.language_model.layers.0.self_attn.o_proj.lora_magnitude_vector"
    edit(tmp_path, **{name: torch.ones(64)})
    with pytest.raises(CheckpointError, match=r"the magnitudes of .*o_proj\.weight are \(64,\), expected \(128,\)"):
        open_checkpoint(str(small_checkpoint), adapter=str(tmp_path))


def test_resized_vocabulary_in_an_adapter_is_refused(small_checkpoint, adapter):
    edit(adapter, **{"base_model.model.model.language_model.embed_tokens.weight": torch.zeros(1030, 128)})
    with pytest.raises(CheckpointError, match=r"is \(1030, 128\) here and \(1024, 128\) there.*If its vocabulary grew"):
        open_checkpoint(str(small_checkpoint), adapter=str(adapter))


def test_numbers_too_large_for_the_base_are_refused(editable, adapter):
    editable.replace_tensors({name: tensor.half() for name, tensor in editable.tensors().items()})
    name = "base_model.model.model.language_model.layers.0.self_attn.q_proj.lora_B.weight"
    edit(adapter, **{name: torch.full((128, 8), 1e6)})
    opened = open_checkpoint(str(editable.folder), adapter=str(adapter))
    with pytest.raises(CheckpointError, match=r"q_proj\.weight with its adapter has numbers that are not finite in"):
        opened.tensors[QUERY].read()


def test_tokenizer_of_the_adapter_is_taken(small_checkpoint, adapter):
    tokenizer = AutoTokenizer.from_pretrained(small_checkpoint)
    tokenizer.add_tokens(["<answer>"])
    tokenizer.save_pretrained(adapter)
    opened = open_checkpoint(str(small_checkpoint), adapter=str(adapter))
    assert opened.notes[0] == f"tokenizer of {adapter}"
    assert "<answer>" in load_tokenizer(opened.parts.tokenizer, opened.config).get_vocab()


def test_adapter_by_itself_is_no_checkpoint(adapter):
    with pytest.raises(CheckpointError, match=r"is an adapter of .*; name that base and the adapter: .* BASE"):
        open_checkpoint(str(adapter))


def test_adapter_beside_whole_weights_is_refused(editable, full_adapter):
    shutil.copytree(full_adapter, editable.folder, dirs_exist_ok=True)
    with pytest.raises(CheckpointError, match=r"adapter beside whole weights; remove adapter_config\.json if"):
        editable.open()
    assert open_checkpoint(str(editable.folder), adapter=str(editable.folder)).notes


TRAINER_LEAVES_OUT = ("tokenizer.json", "tokenizer_config.json", "preprocessor_config.json", "generation_config.json")


def test_base_fills_in_what_a_trainer_left_out(run, editable, small_checkpoint, tmp_path):
    editable.remove(*TRAINER_LEAVES_OUT)
    code, _, err = run(editable.folder, "--base", small_checkpoint, "--into", tmp_path / "models", "--id", "tuned")
    assert code == 0, err
    notes = [line for line in err.splitlines() if line.endswith(f" of {small_checkpoint}")]
    assert [line.split()[0] for line in notes] == ["generation", "tokenizer", "preprocessor"]
    language_model = tmp_path / "models/tuned/language_model"
    original = json.loads((small_checkpoint / "generation_config.json").read_text(encoding="utf-8"))
    written = json.loads((language_model / "generation_config.json").read_text(encoding="utf-8"))
    assert written["eos_token_id"] == original["eos_token_id"]
    LlamaForCausalLM.from_pretrained(language_model)


def test_what_the_checkpoint_has_beats_the_base(editable, small_checkpoint):
    editable.edit("preprocessor_config.json", image_mean=[0.1, 0.2, 0.3])
    opened = open_checkpoint(str(editable.folder), base=str(small_checkpoint))
    assert (opened.preprocessing.mean, opened.notes) == ((0.1, 0.2, 0.3), ())


@pytest.mark.parametrize("name", ["preprocessor_config.json", "tokenizer.json"])
def test_without_base_the_option_is_named(editable, name):
    editable.remove(name)
    with pytest.raises(CheckpointError, match=r"download the whole checkpoint, or name the model .* from: --base"):
        load_tokenizer(editable.folder, editable.open().config)


def test_processor_file_of_transformers_4_is_no_preprocessor(editable, small_checkpoint):
    editable.remove("preprocessor_config.json")
    (editable.folder / "processor_config.json").write_text('{"patch_size": 14}', encoding="utf-8")
    opened = open_checkpoint(str(editable.folder), base=str(small_checkpoint))
    assert opened.notes == (f"preprocessor of {small_checkpoint}",)


@pytest.mark.parametrize(
    "rules",
    [{"^": "module."}, {"^": "_orig_mod."}, {"^": "_fsdp_wrapped_module.", r"layers\.(\d)": r"layers.\1._orig_mod"}],
    ids=["DDP", "compiled", "FSDP"],
)
def test_wrappers_in_names_are_no_matter(editable, small_checkpoint, rules):
    editable.rename_tensors(rules)
    assert set(editable.open().tensors) == set(open_checkpoint(str(small_checkpoint)).tensors)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("q_proj.weight", "q_proj.base_layer.weight"),
        ("q_proj.weight", "q_proj.lora_A.default.weight"),
        ("projector.linear_1", "projector.modules_to_save.default.linear_1"),
        ("projector.linear_1", "projector.original_module.linear_1"),
        ("language_model.model.norm", "base_model.model.language_model.model.norm"),
    ],
)
def test_state_that_peft_has_not_merged_is_refused(editable, old, new):
    editable.rename_tensors({old.replace(".", r"\."): new})
    with pytest.raises(CheckpointError, match=r"layers of PEFT, not merged; merge them \(merge_and_unload"):
        editable.open()


def test_tensors_that_zero3_left_empty_are_refused(editable):
    editable.replace_tensors(editable.tensors() | {QUERY: torch.zeros(0)})
    with pytest.raises(CheckpointError, match=rf"holds 1 tensors without numbers \({QUERY} first\).*zero_to_fp32"):
        editable.open()


@pytest.mark.parametrize(
    ("folder", "advice"),
    [
        ("checkpoint-500", "name one of its checkpoints: .*checkpoint-500"),
        ("global_step500", r"run zero_to_fp32\.py"),
        ("pytorch_model_fsdp_0", "run accelerate merge-weights"),
    ],
)
def test_training_folder_without_weights_says_what_to_do(editable, folder, advice):
    editable.remove("model.safetensors")
    (editable.folder / "training_args.bin").touch()
    (editable.folder / folder).mkdir()
    with pytest.raises(CheckpointError, match=rf"holds neither model\.safetensors nor .*; .*{advice}"):
        editable.open()


@pytest.mark.parametrize("level", ["config", "text_config"])
@pytest.mark.usefixtures("fast_graphs")
def test_leftover_bitsandbytes_config_is_left_out(editable, tmp_path, level):
    if level == "config":
        editable.edit("config.json", quantization_config=BITSANDBYTES)
    else:
        editable.edit_part("text_config", quantization_config=BITSANDBYTES)
    opened = editable.open()
    assert opened.notes == ("the quantization_config of bitsandbytes is left out: the weights are in full precision",)
    folder = export(opened, tmp_path).folder
    assert "quantization" not in (folder / "language_model/config.json").read_text(encoding="utf-8")
    assert reference_logits(opened, make_probe(opened).token_ids).any()


def test_weights_that_bitsandbytes_has_quantised_are_refused(editable):
    editable.edit("config.json", quantization_config=BITSANDBYTES)
    editable.replace_tensors(editable.tensors() | {QUERY: torch.zeros(8192, 1, dtype=torch.uint8)})
    with pytest.raises(CheckpointError, match=r"quantised by bitsandbytes \(.*q_proj\.weight is U8\).*full-precision"):
        editable.open()


def test_tensors_without_effect_are_named(editable):
    extra = {
        "video_tower.vision_model.embeddings.position_ids": torch.arange(17),
        "language_model.model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(16),
    }
    editable.replace_tensors(editable.tensors() | extra)
    line = left_out(editable.open())
    assert line is not None
    assert line.startswith("38 tensors have no effect and are left out: image_tower.encoder.layers.2.*, ")
    assert "rotary_emb.inv_freq" in line


def test_tensors_without_a_place_are_refused(editable):
    editable.replace_tensors(editable.tensors() | {"language_model.value_head.weight": torch.ones(1)})
    with pytest.raises(CheckpointError, match=r"holds 1 tensors that have no place in this model: .*value_head"):
        left_out(editable.open())


def test_trained_layer_without_effect_is_refused(editable, small_checkpoint):
    tensors = editable.tensors()
    name = next(name for name in tensors if "video_tower" in name and "layers.2.mlp.fc1.weight" in name)
    editable.replace_tensors({key: tensor.bfloat16() for key, tensor in tensors.items()})
    opened = open_checkpoint(str(editable.folder), base=str(small_checkpoint))
    assert left_out(opened)  # another dtype is no training
    editable.replace_tensors(tensors | {name: tensors[name] + 0.01})
    opened = open_checkpoint(str(editable.folder), base=str(small_checkpoint))
    with pytest.raises(CheckpointError, match=rf"1 tensors were trained, but have no effect: {LAST_LAYER}.*layer 2 \("):
        left_out(opened)


def test_trained_adapter_without_effect_is_refused(small_checkpoint, adapter):
    name = "base_model.model.model.video_tower.encoder.layers.2.mlp.fc1.lora_B.weight"
    assert not load_file(adapter / "adapter_model.safetensors")[name].any()
    opened = open_checkpoint(str(small_checkpoint), adapter=str(adapter))
    assert left_out(opened)
    edit(adapter, **{name: torch.ones(128, 8)})
    opened = open_checkpoint(str(small_checkpoint), adapter=str(adapter))
    with pytest.raises(CheckpointError, match=rf"1 tensors were trained, but have no effect: {LAST_LAYER}\.mlp\.fc1"):
        left_out(opened)


def test_all_biases_of_an_adapter_may_hold_unused_ones(small_checkpoint, tmp_path):
    make_adapter(small_checkpoint, tmp_path, target_modules=["q_proj"], bias="all")
    assert left_out(open_checkpoint(str(small_checkpoint), adapter=str(tmp_path)))


def test_more_positions_than_the_context_holds_are_refused(editable):
    editable.edit("config.json", video_seq_length=128 * 17)
    message = r"a video of 128 frames takes 2176 positions \(video_seq_length\), the language model has 2048"
    with pytest.raises(CheckpointError, match=message):
        editable.open()


def test_tokenizer_larger_than_the_embeddings_is_refused(editable):
    tokenizer = AutoTokenizer.from_pretrained(editable.folder)
    tokenizer.add_tokens([f"<new{number}>" for number in range(39)])
    tokenizer.save_pretrained(editable.folder)
    with pytest.raises(CheckpointError, match=r"has tokens up to the id 1041, the embeddings 1024 rows; take"):
        load_tokenizer(editable.folder, editable.open().config)


@pytest.mark.usefixtures("fast_graphs")
def test_training_that_cut_prompts_does_not_cut_them_here(editable, tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(editable.folder)
    tokenizer(["one", "and two"], truncation=True, padding="max_length", max_length=64)
    tokenizer.save_pretrained(editable.folder)
    saved = json.loads((editable.folder / "tokenizer.json").read_text(encoding="utf-8"))
    assert saved["truncation"]["max_length"] == saved["padding"]["strategy"]["Fixed"] == 64
    folder = export(editable.open(), tmp_path).folder
    written = json.loads((folder / "language_model/tokenizer.json").read_text(encoding="utf-8"))
    assert (written["truncation"], written["padding"]) == (None, None)
