"""`video-llava chat`: a conversation about the same media."""

from __future__ import annotations

import sys
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING, Any

import click

from ..errors import ContextFull, VideoLlavaError
from .arguments import MediaPaths
from .options import ConnectionOptions, DecodingOptions, SamplingOptions, takes
from .output import echo_stream, exit_codes, note, report_error, warn

if TYPE_CHECKING:
    from ..chat import Chat

_GREY = "bright_black"
_HELP = """/history  show the conversation
/clear    remove all turns, keep the media
/help     show this
/quit     end, as Ctrl-D does; Ctrl-C stops an answer"""


@click.argument("media", nargs=-1)
@takes(decoding=DecodingOptions, sampling=SamplingOptions, connection=ConnectionOptions)
def chat(
    media: tuple[str, ...], decoding: DecodingOptions, sampling: SamplingOptions, connection: ConnectionOptions
) -> None:
    """Talk about videos and images, or about nothing.

    On a terminal Ctrl-C stops an answer and Ctrl-D ends; otherwise each line of stdin is a question.
    """
    from ..client import VideoLlava

    with exit_codes(), ExitStack() as opened:
        decoders = opened.enter_context(decoding.decoders())
        files = MediaPaths.from_arguments(list(media), opened, decoders)
        options = sampling.arguments()
        with VideoLlava(**connection.arguments(), isolated=decoders or False) as client:
            conversation = client.chat(video=files.videos, images=files.images)
            warn([clip.info for clip in conversation.history.clips])
            if sys.stdin.isatty():
                TerminalChat(conversation, options).run()
            else:
                for question in filter(None, map(str.strip, sys.stdin)):
                    _answer(conversation, question, options)


class TerminalChat:
    """Reads lines from a terminal: questions, and commands that begin with a slash."""

    def __init__(self, chat: Chat, options: dict[str, Any]) -> None:
        self._chat = chat
        self._options = options
        self._commands = {"/help": lambda: note(_HELP), "/clear": chat.clear, "/history": self._show_history}

    def run(self) -> None:
        """Run until the user ends it."""
        with suppress(ImportError):
            import readline  # noqa: F401 (gives input() editing and a history)
        note("Ask; /help shows more.", colour=_GREY)
        while (line := _read_line()) not in ("/quit", None):
            if line in self._commands:
                self._commands[line]()
            elif line.startswith("/"):
                note(f"no such command: {line}; /help shows them", colour="red")
            elif line:
                self._ask(line)

    def _ask(self, question: str) -> None:
        try:
            _answer(self._chat, question, self._options)
        except KeyboardInterrupt:
            note("stopped; this turn does not count", colour=_GREY)
        except ContextFull as exc:
            report_error(exc)
            note("/clear begins the conversation again", colour=_GREY)
        except VideoLlavaError as exc:
            report_error(exc)
        history = self._chat.history
        if history.num_positions_left == 0:
            note(f"the context of {history.max_positions} tokens is full: /clear begins again")

    def _show_history(self) -> None:
        for question, answer in self._chat.turns:
            note(f"> {question}\n{answer}")
        note(f"{self._chat.history.num_positions} tokens", colour=_GREY)


def _answer(chat: Chat, question: str, options: dict[str, Any]) -> None:
    with chat.stream(question, **options) as stream:
        echo_stream(stream)


def _read_line() -> str | None:
    """Return the next line, "" after Ctrl-C, None at the end."""
    try:
        if sys.stdout.isatty():
            return input("> ").strip()
        click.echo("> ", nl=False, err=True)
        return input().strip()
    except (KeyboardInterrupt, EOFError) as exc:
        note("")
        return "" if isinstance(exc, KeyboardInterrupt) else None
