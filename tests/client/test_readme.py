"""The READMEs of the root and the client: Python runs, commands and links exist, tables are those of the code."""

import inspect
import json
import re
import shlex
from dataclasses import fields
from pathlib import Path

import click
import pytest
from PIL import Image
from video_llava_client import (
    DIGEST_HEADER,
    DecoderProcesses,
    MediaLimits,
    Retry,
    SourcePolicy,
    VideoLlava,
    VideoLlavaError,
    errors,
    tensors,
)
from video_llava_client.batch.lines import FIELDS
from video_llava_client.cli import app, output
from video_llava_client.cli.batch import DEFAULT_PATIENCE_SECONDS
from video_llava_client.pool import AVOID_SECONDS
from video_llava_client.testing import FakeServer

CLIENT = Path(__file__).parents[2] / "client"
README = (CLIENT / "README.md").read_text()
ROOT_README = (CLIENT.parent / "README.md").read_text()
CONTRACT = (CLIENT / "examples/plain_grpc/README.md").read_text()


def blocks(language: str) -> list[str]:
    found = re.findall(r"^```(\w*)\n(.*?)^```$", README + ROOT_README, re.DOTALL | re.MULTILINE)
    return [text for name, text in found if name == language]


def table(text: str, heading: str) -> dict[str, list[str]]:
    """Return the table with this first heading: its first column, without backticks -> the other columns."""
    (rows,) = re.findall(rf"^\| {heading} \|.*\n\|[-|]+\n((?:\|.*\n)+)", text, re.MULTILINE)
    cells = [[cell.strip().strip("`") for cell in row.strip("|").split(" | ")] for row in rows.splitlines()]
    return {first: rest for first, *rest in cells}


def commands() -> list[str]:
    return [line for block in blocks("") for line in block.splitlines() if line.startswith("video-llava ")]


@pytest.mark.parametrize("number", range(len(blocks("python"))))
def test_python(number, bikes, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "clip.mp4").symlink_to(bikes)
    for name in ("a.jpg", "b.jpg"):
        Image.new("RGB", (80, 60)).save(tmp_path / name)
    with FakeServer() as server:
        exec(compile(blocks("python")[number].replace("localhost:8001", server.url), f"block {number}", "exec"), {})
        assert server.requests
    assert "This is a fake" in capsys.readouterr().out


@pytest.mark.parametrize("command", commands())
def test_commands(command):
    """The line parses: the command exists, and so do its options."""
    _, *words = shlex.split(command, comments=True)
    context = app.make_context("video-llava", list(words), resilient_parsing=True)
    name, chosen, rest = app.resolve_command(context, words)
    assert chosen
    context = chosen.make_context(name, list(rest), parent=context)
    if isinstance(chosen, click.Group):
        name, chosen, rest = chosen.resolve_command(context, rest if rest[0] in chosen.commands else ["run", *rest])
        assert chosen
        chosen.make_context(name, rest, parent=context)


def test_enough_blocks_are_found():
    assert (len(blocks("python")), len(commands())) == (4, 23)


def test_the_root_readme_is_short_and_its_paths_exist():
    assert len(ROOT_README.splitlines()) <= 150
    paths = re.findall(r"\]\((?!http)([^)#]+)", ROOT_README) + re.findall(
        r"`((?:deploy|client|tests)/[\w/.-]+)`", ROOT_README
    )
    assert [path for path in paths if not (CLIENT.parent / path).exists()] == []


def test_exit_codes():
    expected = re.findall(r"^  (\d+) +(.+)$", output.EXIT_CODES, re.MULTILINE)
    assert [(code, *rest) for code, rest in table(README, "Exit code").items()] == [
        (code, text) for code, text in expected
    ]
    codes = {output.SERVER_FAILED, output.BAD_INPUT, output.SOME_FAILED}
    codes |= {output.INTERRUPTED, output.NO_READER, output.TERMINATED}
    assert {int(code) for code, _ in expected} == {0, *codes}


def test_environment_variables():
    names = {parameter.envvar for command in app.commands.values() for parameter in command.params if parameter.envvar}
    assert set(table(README, "Environment")) == {*names, "NO_COLOR"}


def test_error_classes():
    classes = [each for _, each in inspect.getmembers(errors, inspect.isclass) if issubclass(each, VideoLlavaError)]
    names = {each.__name__ for each in classes} - {"VideoLlavaError"}
    assert set(table(README, "Class")) == names
    assert set(re.findall(r"── (\w+)", errors.__doc__ or "")) == names
    assert f"{errors.MAX_MESSAGE_LENGTH} characters" in " ".join(README.split())


def test_limits():
    expected = {field.name: repr(field.default) for field in fields(MediaLimits) if field.name != "sources"}
    assert {name: cells[0] for name, cells in table(README, "Limit").items()} == expected


def test_decoder_processes():
    parameters = list(inspect.signature(DecoderProcesses).parameters.values())
    assert {name: cells[0] for name, cells in table(README, "`DecoderProcesses`").items()} == {
        parameter.name: repr(parameter.default) for parameter in parameters
    }


def test_source_policy():
    strict = SourcePolicy.untrusted()
    for name, (default, untrusted, *_) in (rows := table(README, "`SourcePolicy`")).items():
        for policy, written in ((SourcePolicy(), default), (strict, untrusted)):
            value = getattr(policy, name)
            assert written.replace("`", "") == (", ".join(value) if isinstance(value, tuple) else str(value))
    assert list(rows) == [field.name for field in fields(SourcePolicy)]


def test_lines_of_a_batch():
    (block,) = blocks("json")
    used = {name for line in block.splitlines() for name in json.loads(line)}
    assert used == set(FIELDS)


def test_tensors():
    inputs, outputs = table(CONTRACT, "Input"), table(CONTRACT, "Output")
    returned = {f"return_{name}" for name in outputs} - {"return_text_output"}
    assert {*inputs, *returned} - {"return_…"} == set(tensors.INPUTS_BY_NAME)
    for name, (dtype, shape, _) in inputs.items():
        spec = tensors.INPUTS_BY_NAME.get(name, tensors.INPUTS_BY_NAME["return_token_ids"])
        assert (spec.dtype, len(spec.dims)) == (dtype, shape.count(",") + 1)
    assert {name: cells[0] for name, cells in outputs.items()} == {s.name: s.dtype for s in tensors.OUTPUTS}


def test_numbers():
    defaults = inspect.signature(VideoLlava).parameters
    for text in (
        f"skipped for {AVOID_SECONDS:g} s",
        f"`retry=Retry(num_attempts={Retry.num_attempts})`",
        f"`keepalive_seconds={defaults['keepalive_seconds'].default:g}`",
        f"`--patience {DEFAULT_PATIENCE_SECONDS:g}`",
        f"`{DIGEST_HEADER}`",
    ):
        assert text in README
