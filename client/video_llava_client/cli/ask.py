"""`video-llava ask`: one question."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from .arguments import MediaPaths, split_question
from .options import ConnectionOptions, DecodingOptions, SamplingOptions, WindowOptions, takes
from .output import echo_json, echo_stream, exit_codes, note, warn

if TYPE_CHECKING:
    from ..answers import Answer
    from ..clip import ClipInfo


@click.argument("arguments", metavar="[MEDIA]... QUESTION", nargs=-1, required=True)
@click.option("--stream/--no-stream", default=True, help="Write the answer as it comes.")
@click.option("--json", "as_json", is_flag=True, help="Write one JSON object with all that is known.")
@click.option("--stages", is_flag=True, help="Write seconds by stage and frames to stderr.")
@takes(window=WindowOptions, decoding=DecodingOptions, sampling=SamplingOptions, connection=ConnectionOptions)
def ask(
    arguments: tuple[str, ...],
    stream: bool,
    as_json: bool,
    stages: bool,
    window: WindowOptions,
    decoding: DecodingOptions,
    sampling: SamplingOptions,
    connection: ConnectionOptions,
) -> None:
    """Ask one question about any number of videos and images.

    MEDIA are files or addresses; the question comes last.
    """
    from ..client import VideoLlava

    with exit_codes(), ExitStack() as opened:
        paths, question = split_question(list(arguments))
        decoders = opened.enter_context(decoding.decoders())
        media = MediaPaths.from_arguments(paths, opened, decoders)
        options = {**sampling.arguments(), **window.arguments()}
        with (
            VideoLlava(**connection.arguments(), isolated=decoders or False) as client,
            client.stream(question, video=media.videos, images=media.images, **options) as answering,
        ):
            if stream and not as_json:
                echo_stream(answering)
            for _ in answering:
                pass
        answer = answering.answer
        if as_json:
            echo_json(_json(answer))
        elif not stream:
            click.echo(answer.text)
        warn(answer.frames)
        if stages:
            note(_stage_table(answer))


def _json(answer: Answer) -> dict[str, Any]:
    fields = asdict(answer)
    del fields["response_format"]  # a class
    return fields


def _stage_table(answer: Answer) -> str:
    """Return seconds by stage, tokens, and the frames of each video, a line each."""
    seconds = asdict(answer.stage_seconds)
    lines = [f"{stage:<12}{'-' if value is None else f'{value:9.3f} s'}" for stage, value in seconds.items()]
    lines.append(
        f"tokens: {answer.num_input_tokens} in ({answer.num_cached_tokens} cached), "
        f"{answer.num_output_tokens} out, finish_reason {answer.finish_reason}"
    )
    return "\n".join([*lines, *map(frames_line, answer.frames)])


def frames_line(info: ClipInfo) -> str:
    """Return the frames of one video, with their times."""
    frames = (
        f"{index}" if seconds is None else f"{index} ({seconds:.2f} s)"
        for index, seconds in zip(info.indices, info.pts_seconds, strict=True)
    )
    return f"frames of {info.source}: {', '.join(frames)}"
