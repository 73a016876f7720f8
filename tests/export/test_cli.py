import json
import shutil
import subprocess
import sys
from functools import partial

import pytest
from video_llava_export import cli, exporter
from video_llava_export.errors import VerificationError


@pytest.fixture
def run(monkeypatch, capsys):
    """Run the console script; returns exit code, stdout and stderr."""
    monkeypatch.setattr(cli.signal, "signal", lambda *_: None)

    def run(*arguments):
        monkeypatch.setattr("sys.argv", ["video-llava-export", *map(str, arguments)])
        with pytest.raises(SystemExit, match=r"^\d+$") as raised:
            cli.main()
        return raised.value.code, *capsys.readouterr()

    return run


@pytest.fixture
def fast_export(monkeypatch, skeleton, fast_graphs):  # noqa: ARG001 - wanted for its effect
    monkeypatch.setattr(cli, "ExportOptions", partial(cli.ExportOptions, skeleton=skeleton))


@pytest.mark.usefixtures("fast_export")
def test_result_goes_to_stdout_and_progress_to_stderr(run, small_checkpoint, tmp_path):
    code, out, err = run(small_checkpoint, "--into", tmp_path / "repository")
    assert code == 0
    table, _, following = out.partition("\n\n")
    assert table.splitlines()[1].split() == ["vicuna", "1.0e-06", "2.0e-07"]
    assert following == f"Next: video-llava-serve --repository {tmp_path}/repository\n"
    assert [line.split()[0] for line in err.splitlines()] == ["video_encoder", "image_encoder", "vicuna"]


@pytest.mark.usefixtures("fast_export")
def test_vllm_arguments_reach_the_engine(run, small_checkpoint, tmp_path):
    arguments = '{"dtype": "float32", "max_model_len": 2048}'
    code, *_ = run(small_checkpoint, "--into", tmp_path / "repository", "--vllm-arguments", arguments)
    assert code == 0
    merged = json.loads((tmp_path / "repository/vicuna/1/model.json").read_text(encoding="utf-8"))
    assert merged == {"model": "weights", "dtype": "float32", "max_model_len": 2048}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("{", "--vllm-arguments '{' is not JSON"),
        ("[1]", "--vllm-arguments '[1]' is no object"),
        ('{"model": "x"}', "--vllm-arguments names the model 'x'"),
    ],
)
def test_bad_vllm_arguments_are_one_line(run, small_checkpoint, tmp_path, arguments, message):
    code, out, err = run(small_checkpoint, "--into", tmp_path / "repository", "--vllm-arguments", arguments)
    assert (code, out) == (2, "")
    assert err.startswith(f"video-llava-export: {message}")
    assert len(err.splitlines()) == 1
    assert not (tmp_path / "repository").exists()


def test_bad_checkpoint_is_one_line(run, editable, tmp_path):
    editable.edit("config.json", model_type="llava")
    code, out, err = run(editable.folder, "--into", tmp_path / "repository")
    assert (code, out) == (2, "")
    assert err == (
        f"video-llava-export: {editable.folder} is a checkpoint of model_type 'llava', not 'video_llava'; "
        "give one like LanguageBind/Video-LLaVA-7B-hf\n"
    )


@pytest.mark.usefixtures("fast_export")
def test_export_that_differs_leaves_nothing(run, small_checkpoint, tmp_path, monkeypatch):
    def differ(*_):
        raise VerificationError("vicuna differs")

    monkeypatch.setattr(exporter, "_verify", differ)
    code, out, err = run(small_checkpoint, "--into", tmp_path / "repository")
    assert (code, out) == (2, "")
    assert err.splitlines()[-1] == "video-llava-export: vicuna differs"
    assert not (tmp_path / "repository").exists()


def test_folder_that_cannot_be_written_is_one_line(run, small_checkpoint, tmp_path):
    (tmp_path / "file").touch()
    code, out, err = run(small_checkpoint, "--into", tmp_path / "file/repository")
    assert (code, out) == (1, "")
    assert err == f"video-llava-export: [Errno 17] File exists: '{tmp_path}/file'\n"


def test_without_the_extra_the_command_says_what_to_install():
    script = "import sys; sys.modules['transformers'] = None; import video_llava_export; video_llava_export.main()"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert done.stderr.splitlines() == [
        "video-llava-export needs transformers: install this package with its extra [export]"
    ]


@pytest.mark.usefixtures("fast_export")
@pytest.mark.parametrize("order", ["checkpoint first", "options first", "by its name"])
def test_export_needs_no_name(run, small_checkpoint, tmp_path, order):
    words = [small_checkpoint, "--into", tmp_path / "repository"]
    if order == "options first":
        words = [*words[1:], words[0]]
    elif order == "by its name":
        words = ["export", *words]
    assert run(*words)[0] == 0
    assert (tmp_path / "repository/manifest.json").is_file()


def test_check_says_what_is_wrong(run, whole, tmp_path):
    repository = shutil.copytree(whole, tmp_path / "models")
    code, out, err = run("check", repository, "--no-hashes")
    assert (code, out.splitlines()[1]) == (0, "whole, as far as sizes tell")
    (repository / "vicuna/1/weights/tokenizer.json").unlink()
    code, out, err = run("check", repository)
    assert code == 2
    assert out.startswith(f"{repository}: model ")
    assert err.splitlines()[-2:] == [
        f"video-llava-export: {repository} is damaged:",
        f"  {repository}/vicuna/1/weights/tokenizer.json is missing",
    ]


@pytest.mark.usefixtures("fast_export")
def test_probe_that_is_no_video_is_one_line(run, small_checkpoint, tmp_path):
    (tmp_path / "clip.mp4").write_text("no video", encoding="utf-8")
    code, _, err = run(small_checkpoint, "--into", tmp_path / "repository", "--probe", tmp_path / "clip.mp4")
    assert code == 2
    assert err.startswith(f"video-llava-export: {tmp_path}/clip.mp4")
