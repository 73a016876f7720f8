"""Questions of the exam in the files of each benchmark, answered by a real server, read as the scoring scripts do."""

import json
import random

import pytest
from click.testing import CliRunner
from support.scorers import as_video_chatgpt, as_video_llava
from tiny.files import write_clip
from tiny.painter import paint
from tiny.questions import ask, clip_kinds
from tiny.scenes import NUM_FRAMES, draw_clip
from video_llava_client.cli import app


@pytest.fixture(scope="module")
def exam(tmp_path_factory):
    """A folder of clips, and what is asked about each: (name, two questions of a kind)."""
    folder, rng, asked = tmp_path_factory.mktemp("videos"), random.Random("benchmarks"), []
    for file in ("a.mp4", "v_b.mkv", "-c.avi", "d.gif"):
        scene = draw_clip(rng, held_out=True)
        frames = paint(scene, width=320, height=240, num_frames=NUM_FRAMES)
        if file.endswith(".gif"):
            frames[0].save(folder / file, save_all=True, append_images=frames[1:], duration=125)
        else:
            write_clip(folder / file, frames)
        name = file.partition(".")[0].removeprefix("v_")
        asked += [(name, [ask(rng, scene, kind, is_clip=True) for _ in range(2)]) for kind in clip_kinds(scene)[:4]]
    return folder, asked


def evaluate(cluster, folder, into, **files):
    paths = [into.with_name(f"{name}.json") for name in files]
    for path, content in zip(paths, files.values(), strict=True):
        path.write_text(json.dumps(content), encoding="utf-8")
    arguments = [*paths, "--videos", folder, "--into", into, "--system", ""]
    result = CliRunner().invoke(
        app, ["evaluate", *map(str, arguments), "--url", cluster.pods[0].server.grpc_url], catch_exceptions=False
    )
    assert result.exit_code == 0, result.stderr
    return result.stderr


def test_short_answers(cluster, exam, tmp_path):
    folder, asked = exam
    ids = [f"v_{name}_{number}" for number, (name, _) in enumerate(asked)]
    files = {
        "test_q": [
            {"video_name": name, "question": first.text, "question_id": each}
            for each, (name, (first, _)) in zip(ids, asked, strict=True)
        ],
        "test_a": [
            {"answer": first.answer, "question_id": each} for each, (_, (first, _)) in zip(ids, asked, strict=True)
        ],
    }
    said = evaluate(cluster, folder, tmp_path / "out.jsonl", **files)
    assert f"{len(asked)} of them contain the answer" in said
    rows = as_video_llava(tmp_path / "out.jsonl")
    assert rows == {
        each: (first.text, first.answer, first.answer) for each, (_, (first, _)) in zip(ids, asked, strict=True)
    }
    evaluate(cluster, folder, tmp_path / "out.json", **files)
    assert list(as_video_chatgpt(tmp_path / "out.json", "Q", "A", "pred").values()) == list(rows.values())


def test_the_generative_benchmark(cluster, exam, tmp_path):
    folder, asked = exam
    general = [{"video_name": name, "Q": first.text, "A": first.answer} for name, (first, _) in asked]
    evaluate(cluster, folder, tmp_path / "general.json", generic_qa=general)
    rows = as_video_chatgpt(tmp_path / "general.json", "Q", "A", "pred")
    assert list(rows.values()) == [(first.text, first.answer, first.answer) for _, (first, _) in asked]

    pairs = [{"video_name": n, "Q1": q.text, "Q2": other.text, "A": q.answer} for n, (q, other) in asked]
    evaluate(cluster, folder, tmp_path / "pairs.json", consistency_qa=pairs)
    rows = as_video_chatgpt(tmp_path / "pairs.json", "Q1", "pred1", "Q2", "pred2")
    assert list(rows.values()) == [(q.text, q.answer, other.text, other.answer) for _, (q, other) in asked]
