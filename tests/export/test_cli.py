import pytest
from video_llava_export import exporter
from video_llava_export.errors import VerificationError
from video_llava_server.manifest import Manifest


@pytest.mark.usefixtures("fast_graphs")
def test_result_goes_to_stdout_and_progress_to_stderr(run, small_checkpoint, tmp_path):
    code, out, err = run(small_checkpoint, "--into", tmp_path / "models")
    assert code == 0
    table, _, following = out.partition("\n\n")
    assert table.splitlines()[1].split() == ["vicuna", "1.0e-06", "2.0e-07"]
    (folder,) = (tmp_path / "models").iterdir()
    assert following == f"Next: video-llava-serve --model {folder}\n"
    left_out, *steps = err.splitlines()
    assert left_out == (
        "36 tensors have no effect and are left out: image_tower.encoder.layers.2.*, image_tower.post_layernorm.*, "
        "video_tower.encoder.layers.2.*, video_tower.post_layernorm.*"
    )
    assert [line.split()[0] for line in steps] == ["video_encoder", "image_encoder", "vicuna"]


@pytest.mark.usefixtures("fast_graphs")
def test_vllm_arguments_reach_the_engine(run, small_checkpoint, tmp_path):
    arguments = '{"dtype": "float32", "max_model_len": 2048}'
    code, *_ = run(small_checkpoint, "--into", tmp_path, "--id", "model", "--vllm-arguments", arguments)
    assert code == 0
    assert Manifest.read(tmp_path / "model").engine_arguments == {"dtype": "float32", "max_model_len": 2048}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("{", "--vllm-arguments '{' is not JSON"),
        ("[1]", "--vllm-arguments '[1]' is no object"),
        ('{"model": "x"}', "--vllm-arguments names the model 'x'"),
    ],
)
def test_bad_vllm_arguments_are_one_line(run, small_checkpoint, tmp_path, arguments, message):
    code, out, err = run(small_checkpoint, "--into", tmp_path / "models", "--vllm-arguments", arguments)
    assert (code, out) == (2, "")
    assert err.startswith(f"video-llava-export: {message}")
    assert len(err.splitlines()) == 1
    assert not (tmp_path / "models").exists()


def test_bad_checkpoint_is_one_line(run, editable, tmp_path):
    editable.edit("config.json", model_type="llava")
    code, out, err = run(editable.folder, "--into", tmp_path / "models")
    assert (code, out) == (2, "")
    assert err == (
        f"video-llava-export: {editable.folder} is a checkpoint of model_type 'llava', not 'video_llava'; "
        "give one like LanguageBind/Video-LLaVA-7B-hf\n"
    )


@pytest.mark.usefixtures("fast_graphs")
def test_export_that_differs_leaves_nothing(run, small_checkpoint, tmp_path, monkeypatch):
    def differ(*_):
        raise VerificationError("vicuna differs")

    monkeypatch.setattr(exporter._Export, "_verify_encoders", differ)
    code, out, err = run(small_checkpoint, "--into", tmp_path / "models")
    assert (code, out) == (2, "")
    assert err.splitlines()[-1] == "video-llava-export: vicuna differs"
    assert not list((tmp_path / "models").iterdir())


def test_folder_that_cannot_be_written_is_one_line(run, small_checkpoint, tmp_path):
    (tmp_path / "file").touch()
    code, out, err = run(small_checkpoint, "--into", tmp_path / "file/models")
    assert (code, out) == (1, "")
    assert err.splitlines()[-1] == f"video-llava-export: [Errno 20] Not a directory: '{tmp_path}/file/models'"


@pytest.mark.usefixtures("fast_graphs")
@pytest.mark.parametrize("order", ["checkpoint first", "options first", "by its name"])
def test_export_needs_no_name(run, small_checkpoint, tmp_path, order):
    words = [small_checkpoint, "--into", tmp_path / "models", "--id", "model"]
    if order == "options first":
        words = [*words[1:], words[0]]
    elif order == "by its name":
        words = ["export", *words]
    assert run(*words)[0] == 0
    assert (tmp_path / "models/model/manifest.json").is_file()


def test_check_says_what_is_wrong(run, model):
    code, out, err = run("check", model, "--no-hashes")
    assert (code, out.splitlines()[1]) == (0, "whole, as far as sizes tell")
    (model / "language_model/tokenizer.json").unlink()
    code, out, err = run("check", model)
    assert code == 2
    assert out.startswith(f"{model}: model checkpoint0-")
    assert err.splitlines()[-2:] == [
        f"video-llava-export: {model} is damaged:",
        f"  {model}/language_model/tokenizer.json is missing",
    ]


@pytest.mark.usefixtures("fast_graphs")
def test_probe_that_is_no_video_is_one_line(run, small_checkpoint, tmp_path):
    (tmp_path / "clip.mp4").write_text("no video", encoding="utf-8")
    code, _, err = run(small_checkpoint, "--into", tmp_path / "models", "--probe", tmp_path / "clip.mp4")
    assert code == 2
    assert err.startswith(f"video-llava-export: {tmp_path}/clip.mp4")
