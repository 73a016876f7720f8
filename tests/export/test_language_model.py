import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, GenerationConfig, LlamaForCausalLM
from video_llava_export import files
from video_llava_export.errors import CheckpointError, VerificationError
from video_llava_export.language_model import find_language_model, write_texts
from video_llava_export.reference import reference_logits
from video_llava_export.shards import write_shards
from video_llava_export.verification import make_probe, verify_tensors


def write(editable, folder, **options):
    checkpoint = editable.open()
    model = find_language_model(checkpoint.tensors, checkpoint.config)
    write_texts(model, checkpoint.folder, folder, checkpoint.config)
    write_shards(model.tensors, folder, **options)
    return model


def test_config_is_a_plain_llama(exported):
    config = AutoConfig.from_pretrained(exported.folder / "language_model")
    assert (config.model_type, config.architectures) == ("llama", ["LlamaForCausalLM"])
    assert (config.num_key_value_heads, config.head_dim, config.dtype) == (2, 32, torch.float32)
    raw = json.loads((exported.folder / "language_model/config.json").read_text(encoding="utf-8"))
    assert raw["rope_theta"] == raw["rope_parameters"]["rope_theta"] == 10000.0


def test_generation_config_keeps_the_ids(exported):
    config = GenerationConfig.from_pretrained(exported.folder / "language_model")
    assert (config.bos_token_id, config.eos_token_id, config.pad_token_id) == (1, 2, 1002)


def test_generation_config_is_filled_from_the_text_config(editable, tmp_path):
    editable.remove("generation_config.json")
    write(editable, tmp_path / "weights")
    raw = json.loads((tmp_path / "weights/generation_config.json").read_text(encoding="utf-8"))
    assert raw == {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 1002}


def test_shards_stay_below_their_limit(editable, tmp_path):
    model = write(editable, tmp_path / "weights", max_shard_bytes=600_000)
    shards = sorted((tmp_path / "weights").glob("*.safetensors"))
    assert shards[0].name == f"model-00001-of-{len(shards):05}.safetensors"
    assert all(path.stat().st_size < 610_000 for path in shards)
    index = json.loads((tmp_path / "weights/model.safetensors.index.json").read_text(encoding="utf-8"))
    assert set(index["weight_map"]) == set(model.tensors)
    verify_tensors(model, tmp_path / "weights")
    LlamaForCausalLM.from_pretrained(tmp_path / "weights")


def test_safetensors_itself_reads_what_was_written(exported, small_checkpoint):
    written = load_file(exported.folder / "language_model/model.safetensors")
    source = load_file(small_checkpoint / "model.safetensors")
    assert len(written) == sum(name.startswith("language_model.") for name in source)
    assert all(torch.equal(tensor, source[f"language_model.{name}"]) for name, tensor in written.items())


@pytest.mark.parametrize("level", ["config", "text_config"])
def test_tied_head_needs_no_tensor(editable, tmp_path, level):
    tensors = editable.tensors()
    del tensors["language_model.lm_head.weight"]
    editable.replace_tensors(tensors)
    if level == "config":
        editable.edit("config.json", tie_word_embeddings=True)
    else:
        editable.edit_part("text_config", tie_word_embeddings=True)
    write(editable, tmp_path / "weights")
    written = LlamaForCausalLM.from_pretrained(tmp_path / "weights").eval()
    probe = make_probe(editable.open())
    with torch.inference_mode():
        actual = written(input_ids=probe.token_ids).logits
    expected = torch.from_numpy(reference_logits(editable.open(), probe.token_ids))
    torch.testing.assert_close(actual, expected)


def test_missing_head_that_is_not_tied_is_refused(editable, tmp_path):
    tensors = editable.tensors()
    del tensors["language_model.lm_head.weight"]
    editable.replace_tensors(tensors)
    with pytest.raises(CheckpointError, match=r"holds no tensor language_model\.lm_head\.weight"):
        write(editable, tmp_path)


def test_tensor_of_another_shape_is_refused(editable, tmp_path):
    editable.edit_part("text_config", vocab_size=1100)
    with pytest.raises(CheckpointError, match=r"weight has shape \(1024, 128\), .* asks for \(1100, 128\)"):
        write(editable, tmp_path)


def test_quantised_tensor_without_a_quantization_config_is_refused(editable, tmp_path):
    tensors = editable.tensors()
    tensors["language_model.model.norm.weight"] = tensors["language_model.model.norm.weight"].to(torch.int8)
    editable.replace_tensors(tensors)
    with pytest.raises(CheckpointError, match=r"norm\.weight is I8; supported are F32, F16, BF16, and others only"):
        write(editable, tmp_path)


@pytest.mark.parametrize("max_shard_bytes", [10**9, 600_000], ids=["one file", "shards"])
def test_bit_that_changes_on_the_way_to_the_disk_is_found(editable, tmp_path, monkeypatch, max_shard_bytes):
    append = files.HashingFile._append

    def flip(file, chunk):
        append(file, memoryview(bytes([chunk[0] ^ 1]) + chunk[1:]))

    monkeypatch.setattr(files.HashingFile, "_append", flip)
    with pytest.raises(VerificationError, match=r"model.*\.safetensors reads back other than it was written"):
        write(editable, tmp_path / "weights", max_shard_bytes=max_shard_bytes)


@pytest.mark.parametrize("change", ["absent", "extra", "dtype"])
def test_tensors_other_than_the_checkpoints_are_found(editable, tmp_path, change):
    model = write(editable, tmp_path / "weights")
    path = tmp_path / "weights/model.safetensors"
    tensors = load_file(path)
    norm = tensors.pop("model.norm.weight")
    if change != "absent":
        tensors["model.norm.weight"] = norm.half() if change == "dtype" else norm
        tensors |= {"model.norm.bias": norm.clone()} if change == "extra" else {}
    save_file(tensors, path)
    with pytest.raises(VerificationError, match=r"1 tensors were not written as they are, model\.norm\.(weight|bias)"):
        verify_tensors(model, tmp_path / "weights")
