"""`video-llava chat`: a conversation about the same media."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import suppress
from typing import Annotated

import typer

from ..chat import Chat
from ..client import VideoLlava
from ..errors import ContextFull, VideoLlavaError
from .options import ConnectionOptions, SamplingOptions
from .output import exit_codes, note, tell, warn
from .question import Media

_HELP = """/history  what was said
/clear    forget what was said, keep the media
/help     this
/quit     end, as Ctrl-D does; Ctrl-C stops an answer"""


def chat(
    media: Annotated[
        list[str] | None, typer.Argument(metavar="[MEDIA]...", help="Video and image files.", show_default=False)
    ] = None,
    *,
    sampling: SamplingOptions,
    connection: ConnectionOptions,
) -> None:
    """Talk about videos and images. On a terminal Ctrl-C stops an answer, Ctrl-D ends; else each line is a question."""
    with exit_codes():
        files = Media.parse(media or [])
        options = sampling.arguments()
        with VideoLlava(**connection.arguments()) as client:
            conversation = client.chat(video=files.videos, images=files.images)
            warn([clip.info for clip in conversation.history.clips])
            if sys.stdin.isatty():
                Conversation(conversation, options).run()
            else:
                for question in _lines():
                    _answer(conversation, question, options)


class Conversation:
    """A person's side of a chat: what they type is a question, or a command with a stroke before it."""

    def __init__(self, chat: Chat, options: dict) -> None:
        self._chat = chat
        self._options = options

    def run(self) -> None:
        """Talk until the person ends it."""
        with suppress(ImportError):
            import readline  # noqa: F401 (input() then has a history and can be edited)
        note("Ask; /help shows more.", colour=typer.colors.BRIGHT_BLACK)
        while (line := _ask_person()) not in ("/quit", None):
            self._take(line)

    def _take(self, line: str) -> None:
        commands = {"/help": lambda: note(_HELP), "/clear": self._chat.clear, "/history": self._show_history}
        if line in commands:
            commands[line]()
        elif line.startswith("/"):
            note(f"no such command: {line}; /help shows them", colour=typer.colors.RED)
        elif line:
            self._ask(line)

    def _ask(self, question: str) -> None:
        try:
            _answer(self._chat, question, self._options)
        except KeyboardInterrupt:
            note("stopped; this turn does not count", colour=typer.colors.BRIGHT_BLACK)
        except ContextFull as exc:
            tell(exc)
            note("/clear begins the conversation again", colour=typer.colors.BRIGHT_BLACK)
        except VideoLlavaError as exc:
            tell(exc)
        self._tell_room()

    def _tell_room(self) -> None:
        history = self._chat.history
        if history.num_positions_left == 0:
            note(f"the context of {history.max_positions} tokens is full: /clear begins again")

    def _show_history(self) -> None:
        for question, answer in self._chat.turns:
            note(f"> {question}\n{answer}")
        note(f"{self._chat.history.num_positions} tokens", colour=typer.colors.BRIGHT_BLACK)


def _answer(chat: Chat, question: str, options: dict) -> None:
    wrote = False
    try:
        with chat.stream(question, **options) as answering:
            for delta in answering:
                typer.echo(delta.text, nl=False)
                wrote = wrote or bool(delta.text)
    finally:
        # Also an answer that breaks off ends its line, before the error is told.
        if wrote:
            typer.echo()


def _ask_person() -> str | None:
    """Return what the person types, None when they end it."""
    try:
        if sys.stdout.isatty():
            return input("> ").strip()
        typer.echo("> ", nl=False, err=True)
        return input().strip()
    except KeyboardInterrupt:
        note("")
        return ""
    except EOFError:
        note("")
        return None


def _lines() -> Iterator[str]:
    yield from filter(None, map(str.strip, sys.stdin))
