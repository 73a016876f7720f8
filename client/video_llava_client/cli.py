"""`video-llava`: the answer to stdout as it is written, everything else to stderr.

Exit codes: 0 answered, 1 the server or the connection failed, 2 bad input, 130 interrupted.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import typer

from .answers import Answer
from .client import VideoLlava
from .errors import PromptError, ServerError, VideoLlavaError
from .media import ClipInfo, is_image
from .request import DEFAULT_MAX_TOKENS
from .settings import DEFAULT_TIMEOUT_SECONDS
from .stream import AnswerStream

_SERVER_FAILED, _BAD_INPUT, _INTERRUPTED = 1, 2, 130

app = typer.Typer(
    name="video-llava",
    help="Ask Video-LLaVA on a Triton server about videos and images.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


@app.callback()
def _root() -> None:
    # With a callback, typer keeps `ask` a subcommand although it is the only one so far.
    pass


@app.command()
def ask(
    arguments: Annotated[
        list[str],
        typer.Argument(
            metavar="[MEDIA]... QUESTION", help="Video and image files, then the question.", show_default=False
        ),
    ],
    url: Annotated[
        str, typer.Option(envvar="VIDEO_LLAVA_URL", help="host:port of the server's gRPC service.")
    ] = "localhost:8001",
    max_tokens: Annotated[int, typer.Option(help="Longest answer, in tokens.")] = DEFAULT_MAX_TOKENS,
    temperature: Annotated[float, typer.Option(help="0: always the likeliest token; higher: more varied.")] = 0.0,
    timeout: Annotated[float, typer.Option(help="Longest wait for the answer, in seconds.")] = DEFAULT_TIMEOUT_SECONDS,
    stream: Annotated[bool, typer.Option("--stream/--no-stream", help="Write the answer as it comes.")] = True,
    as_json: Annotated[bool, typer.Option("--json", help="Write one JSON object with all that is known.")] = False,
    stages: Annotated[bool, typer.Option("--stages", help="Write time per stage and frames seen to stderr.")] = False,
) -> None:
    """Ask one question about any number of videos and images."""
    with _exit_codes():
        question = Question.parse(arguments)
        options = {"max_tokens": max_tokens, "temperature": temperature}
        media = {"video": question.videos, "images": question.images}
        with VideoLlava(url, timeout_seconds=timeout) as client:
            if stream:
                answer = _read(client.stream(question.text, **media, **options), echo=not as_json)
            else:
                answer = client.ask(question.text, **media, **options)
        if as_json:
            typer.echo(json.dumps(asdict(answer), ensure_ascii=False))
        elif not stream:
            typer.echo(answer.text)
        if stages:
            typer.echo(_stage_table(answer), err=True)


def _is_file(text: str) -> bool:
    # A question may be longer than a file's name can be.
    with suppress(OSError):
        return Path(text).is_file()
    return False


@dataclass(frozen=True)
class Question:
    """The arguments told apart: what each file is, its content says."""

    text: str
    videos: tuple[str, ...]
    images: tuple[str, ...]

    @classmethod
    def parse(cls, arguments: list[str]) -> Question:
        """Return the media and the question, which comes last."""
        *media, text = arguments
        if _is_file(text):
            raise PromptError(f"the last argument, {text}, is a file: write the question after it")
        images = tuple(path for path in media if is_image(path))
        return cls(text=text, videos=tuple(path for path in media if path not in images), images=images)


def _read(answering: AnswerStream, *, echo: bool) -> Answer:
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


def _stage_table(answer: Answer) -> str:
    """Return seconds by stage, tokens, and the frames of each video, a line each."""
    seconds = asdict(answer.stage_seconds)
    lines = [f"{stage:<12}{'-' if value is None else f'{value:9.3f} s'}" for stage, value in seconds.items()]
    lines.append(
        f"tokens: {answer.num_input_tokens} in ({answer.num_cached_tokens} cached), "
        f"{answer.num_output_tokens} out, finish_reason {answer.finish_reason}"
    )
    lines += [_frames_line(info) for info in answer.frames]
    return "\n".join(lines)


def _frames_line(info: ClipInfo) -> str:
    seen = (
        f"{index}" if seconds is None else f"{index} ({seconds:.2f} s)"
        for index, seconds in zip(info.indices, info.pts_seconds, strict=True)
    )
    return f"frames of {info.source}: {', '.join(seen)}"


@contextmanager
def _exit_codes() -> Iterator[None]:
    """Turn errors into one line on stderr and an exit code."""
    try:
        yield
    except VideoLlavaError as exc:
        typer.echo(f"video-llava: {' '.join(str(exc).split())}", err=True)
        raise typer.Exit(_SERVER_FAILED if isinstance(exc, ServerError) else _BAD_INPUT) from exc
    except KeyboardInterrupt as exc:
        typer.echo("video-llava: interrupted", err=True)
        raise typer.Exit(_INTERRUPTED) from exc


def main() -> None:
    """Run the command line."""
    app()
