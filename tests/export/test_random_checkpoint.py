from itertools import combinations

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer, VideoLlavaForConditionalGeneration
from video_llava_export import random_checkpoint
from video_llava_export.checkpoint import open_checkpoint
from video_llava_export.progress import Progress
from video_llava_export.random_checkpoint import Layout, Shapes, make_checkpoint, make_full_size_checkpoint

NUM_TOKENS = 24


def test_same_seed_gives_the_same_files(small_checkpoint, tmp_path, read_files):
    make_checkpoint(tmp_path)
    assert read_files(tmp_path) == read_files(small_checkpoint)


def test_other_seed_gives_other_weights(small_checkpoint, tmp_path):
    make_checkpoint(tmp_path, seed=1)
    name = "model.safetensors"
    assert (tmp_path / name).read_bytes() != (small_checkpoint / name).read_bytes()


def test_ids_are_laid_out_as_in_the_7b(small_checkpoint):
    tokens = AutoTokenizer.from_pretrained(small_checkpoint).convert_ids_to_tokens(range(1003))
    assert tokens[:4] == ["<unk>", "<s>", "</s>", "<0x00>"]
    assert tokens[258] == "<0xFF>"
    assert tokens[1000:] == ["<image>", "<video>", "<pad>"]


@pytest.mark.parametrize("layout", Layout)
def test_the_large_one_is_written_tensor_by_tensor(layout, tmp_path, monkeypatch):
    """With the 7B's vocabulary and dtype, and narrow layers."""
    narrow = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 3, "num_attention_heads": 4}
    for sizes in (random_checkpoint._TEXT, random_checkpoint._VISION):
        monkeypatch.setitem(sizes, Shapes.FULL, sizes[Shapes.FULL] | narrow)
    with Progress().step("checkpoint") as step:
        make_full_size_checkpoint(tmp_path, layout, step=step)
    written = sum(path.stat().st_size for path in tmp_path.rglob("*") if path.suffix in (".safetensors", ".bin"))
    assert 0.9 * written < step.num_bytes < written
    checkpoint = open_checkpoint(str(tmp_path))
    assert checkpoint.config.is_original == (layout is Layout.ORIGINAL)
    assert {checkpoint.tensors[name].dtype for name in checkpoint.tensors} == {"F16"}
    weight = checkpoint.tensors["video_tower.encoder.layers.0.self_attn.q_proj.weight"].read()
    assert weight.std().item() == pytest.approx(64**-0.5, rel=0.1)


@pytest.fixture(scope="module")
def answers(small_checkpoint):
    """Greedy answers about each clip and its first frame, {name: (ids, gaps between the best two logits)}."""
    model = VideoLlavaForConditionalGeneration.from_pretrained(small_checkpoint).eval()
    return {
        f"{medium} {name}": answer(model, small_checkpoint, medium, frames)
        for name, frames in clips().items()
        for medium in ("video", "image")
    }


def clips():
    noise = np.random.default_rng(0).integers(0, 256, (8, 56, 56, 3), dtype=np.uint8)
    ramp = np.linspace(0, 255, 8 * 56 * 56 * 3).reshape(8, 56, 56, 3).astype(np.uint8)
    return {"black": np.zeros_like(noise), "noise": noise, "ramp": ramp, "reversed ramp": ramp[::-1].copy()}


@torch.inference_mode()
def answer(model, folder, medium, frames):
    checkpoint = open_checkpoint(str(folder))
    config = checkpoint.config
    prompt = AutoTokenizer.from_pretrained(folder)(f"USER: <{medium}>\nWhat is this? ASSISTANT:")["input_ids"]
    placeholder, count = config.image_token_id, config.tokens_per_image
    if medium == "video":
        placeholder, count = config.video_token_id, config.num_frames * config.tokens_per_frame
    ids = [token for one in prompt for token in ([one] * count if one == placeholder else [one])]
    pixels = checkpoint.preprocessing.normalise(torch.from_numpy(frames if medium == "video" else frames[:1]))
    output = model.generate(
        input_ids=torch.tensor([ids]),
        **{f"pixel_values_{medium}s": pixels[None] if medium == "video" else pixels},
        max_new_tokens=NUM_TOKENS,
        do_sample=False,
        output_scores=True,
        return_dict_in_generate=True,
    )
    best = torch.cat(output.scores).topk(2).values
    return output.sequences[0, len(ids) :].tolist(), (best[:, 0] - best[:, 1]).tolist()


def test_answers_depend_on_what_is_seen(answers):
    assert all(one[0] != other[0] for one, other in combinations(answers.values(), 2))


def test_answers_do_not_loop(answers):
    for ids, _ in answers.values():
        assert len(set(ids)) > len(ids) / 2


def test_best_token_is_clear(answers):
    gaps = [gap for _, gaps in answers.values() for gap in gaps]
    assert np.median(gaps) > 0.5
    # Float32 moves a logit by less than 1e-4.
    assert min(gaps) > 1e-3
