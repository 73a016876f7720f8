"""`video-llava ask`: one question."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Annotated

import typer

from ..answers import Answer
from ..client import VideoLlava
from ..media import ClipInfo
from ..stream import AnswerStream
from .options import ConnectionOptions, SamplingOptions, WindowOptions
from .output import exit_codes, note, warn
from .question import Media, split_question


def ask(
    arguments: Annotated[
        list[str],
        typer.Argument(
            metavar="[MEDIA]... QUESTION",
            help="Video and image files or addresses, then the question.",
            show_default=False,
        ),
    ],
    stream: Annotated[bool, typer.Option("--stream/--no-stream", help="Write the answer as it comes.")] = True,
    as_json: Annotated[bool, typer.Option("--json", help="Write one JSON object with all that is known.")] = False,
    stages: Annotated[bool, typer.Option("--stages", help="Write time per stage and frames seen to stderr.")] = False,
    *,
    window: WindowOptions,
    sampling: SamplingOptions,
    connection: ConnectionOptions,
) -> None:
    """Ask one question about any number of videos and images."""
    with exit_codes():
        paths, question = split_question(arguments)
        media = Media.parse(paths)
        options = {**sampling.arguments(), **window.arguments()}
        with VideoLlava(**connection.arguments()) as client:
            if stream:
                answering = client.stream(question, video=media.videos, images=media.images, **options)
                answer = read(answering, echo=not as_json)
            else:
                answer = client.ask(question, video=media.videos, images=media.images, **options)
        if as_json:
            typer.echo(json.dumps(asdict(answer), ensure_ascii=False))
        elif not stream:
            typer.echo(answer.text)
        warn(answer.frames)
        if stages:
            note(stage_table(answer))


def read(answering: AnswerStream, *, echo: bool) -> Answer:
    """Read the stream to its end; write its text to stdout as it comes where `echo` says so."""
    wrote = False
    try:
        with answering:
            for delta in answering:
                if echo and delta.text:
                    typer.echo(delta.text, nl=False)
                    wrote = True
    finally:
        # Also an answer that breaks off ends its line, before the error is told.
        if wrote:
            typer.echo()
    return answering.answer


def stage_table(answer: Answer) -> str:
    """Return seconds by stage, tokens, and the frames of each video, a line each."""
    seconds = asdict(answer.stage_seconds)
    lines = [f"{stage:<12}{'-' if value is None else f'{value:9.3f} s'}" for stage, value in seconds.items()]
    lines.append(
        f"tokens: {answer.num_input_tokens} in ({answer.num_cached_tokens} cached), "
        f"{answer.num_output_tokens} out, finish_reason {answer.finish_reason}"
    )
    lines += [frames_line(info) for info in answer.frames]
    return "\n".join(lines)


def frames_line(info: ClipInfo) -> str:
    """Return the frames of one video, with their times."""
    seen = (
        f"{index}" if seconds is None else f"{index} ({seconds:.2f} s)"
        for index, seconds in zip(info.indices, info.pts_seconds, strict=True)
    )
    return f"frames of {info.source}: {', '.join(seen)}"
