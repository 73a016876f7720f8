"""A conversation about the same media, for threads."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Unpack

from .answers import Answer
from .errors import ContextFull
from .history import History, TurnOptions

if TYPE_CHECKING:
    from .client import VideoLlava
    from .stream import AnswerStream


class Chat:
    """A conversation about videos and images, or nothing but text; made by `VideoLlava.chat`.

    chat = client.chat(video="clip.mp4")
    print(chat.ask("What happens?").text)
    print(chat.ask("Why?").text)

    The server keeps no conversations: each turn sends all that was said before in the model's own format, with each
    medium once, at its beginning. Media are decoded once, and the server's caches know what it has seen. A turn
    counts when its answer is complete: one that failed or was left may be asked again. For one thread at a time.

    Attributes:
        history: What was said, and how much of the model's context that takes.
    """

    def __init__(self, client: VideoLlava, history: History) -> None:
        self._client = client
        self.history = history

    def __repr__(self) -> str:
        return f"Chat({len(self.history.turns)} turns, {self.history.num_positions} positions)"

    @property
    def turns(self) -> tuple[tuple[str, str], ...]:
        """Each question with its answer."""
        return self.history.turns

    def ask(self, question: str, **options: Unpack[TurnOptions]) -> Answer:
        """Ask the next question and wait for its whole answer.

        Raises:
            ContextFull: What was said leaves no room for an answer: `clear` the chat, or begin another one.
            VideoLlavaError: What `VideoLlava.ask` raises.
        """
        with self._learning():
            answer = self._client.ask(**self.history.ask_options(question, options))
        self.history.add(question, answer, options)
        return answer

    @contextmanager
    def stream(self, question: str, **options: Unpack[TurnOptions]) -> Iterator[AnswerStream]:
        """Ask the next question, in a `with` block, and get the answer while it is written.

        Raises:
            ContextFull: As `ask` does.
        """
        with self._learning(), self._client.stream(**self.history.ask_options(question, options)) as stream:
            try:
                yield stream
            finally:
                if stream.is_complete:
                    self.history.add(question, stream.answer, options)

    def clear(self) -> None:
        """Forget what was said; the media stay."""
        self.history.clear()

    @contextmanager
    def _learning(self) -> Iterator[None]:
        try:
            yield
        except ContextFull as exc:
            self.history.learn(exc)
            raise
