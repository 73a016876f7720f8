"""A fine-tune is exported, served and asked: an adapter, and a video of sixteen frames."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import av
import numpy as np
import pytest
from support.adapters import make_adapter, merged_model
from support.export import ENGINE_ARGUMENTS, FREE_PORTS, export
from support.reference import Reference
from video_llava_client import VideoLlava, build_prompt
from video_llava_serve import LocalServer

NUM_FRAMES = 16
MAX_TOKENS = 24
QUESTIONS = ("What happens?", "How many bicycles are there?", "Where is it?", "Describe it in detail.")


@pytest.fixture(scope="module")
def base(checkpoint, tmp_path_factory) -> Path:
    """The random checkpoint, with twice as many frames a video."""
    folder = Path(shutil.copytree(checkpoint, tmp_path_factory.mktemp("tuned") / "base"))
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    config["video_seq_length"] *= 2
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def adapter(base) -> Path:
    """Of everything: towers and language model by LoRA, the projector whole."""
    return make_adapter(
        base,
        base.with_name("adapter"),
        use_dora=True,
        use_rslora=True,
        target_modules="all-linear",
        modules_to_save=["multi_modal_projector"],
        scale=0.02,
    )


@pytest.fixture(scope="module")
def reference(base, adapter) -> Reference:
    """Transformers' model, in which PEFT has merged the adapter."""
    folder = Path(shutil.copytree(base, base.with_name("merged")))
    merged_model(base, adapter).save_pretrained(folder)
    return Reference(folder)


@pytest.fixture(scope="module")
def server(base, adapter):
    model = export(base, base.with_name("models"), "--adapter", str(adapter))
    with LocalServer(model=model, engine_arguments=ENGINE_ARGUMENTS, **FREE_PORTS) as running:
        yield running


def test_tokens_are_those_of_pefts_merge(server, base, reference, clip_path):
    frames = sixteen_frames(clip_path)
    plain = Reference(base)
    with VideoLlava(server.grpc_url, timeout_seconds=120) as client:
        limits = client.info().limits
        assert limits is not None
        assert (limits.num_frames, limits.tokens_per_video) == (16, 272)
        num_changed = 0
        for question in QUESTIONS:
            prompt = build_prompt(question, num_videos=1, num_images=0)
            expected = reference.answer(prompt, videos=[frames], max_new_tokens=MAX_TOKENS)
            answer = client.ask(question, video=clip_path, max_tokens=MAX_TOKENS)
            assert list(answer.token_ids) == expected.token_ids
            unchanged = plain.answer(prompt, videos=[frames], max_new_tokens=MAX_TOKENS)
            num_changed += expected.token_ids != unchanged.token_ids
        assert num_changed == len(QUESTIONS), "the adapter must matter"


def test_verify_takes_the_adapter(server, base, adapter, clip_path):
    command = [str(Path(sys.executable).with_name("video-llava-export")), "verify", str(base), str(clip_path)]
    command += ["--adapter", str(adapter), "--server", server.grpc_url, "--max-tokens", "12"]
    one_thread = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=one_thread, capture_output=True, text=True, timeout=250, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "| equal |" in done.stdout


def sixteen_frames(path: Path) -> np.ndarray:
    """As the model card picks them: uint8 [16, H, W, 3]."""
    with av.open(str(path)) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    return np.stack([frames[i] for i in np.arange(0, len(frames), len(frames) / NUM_FRAMES).astype(int)])
