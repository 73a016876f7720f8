"""A conversation about the same media, for asyncio."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Unpack

from .answers import Answer
from .errors import ContextFull
from .history import History, TurnOptions

if TYPE_CHECKING:
    from .async_client import AsyncVideoLlava
    from .async_stream import AsyncAnswerStream


class AsyncChat:
    """A conversation as `Chat` is, made by `await AsyncVideoLlava.chat(...)`; for one task at a time."""

    def __init__(self, client: AsyncVideoLlava, history: History) -> None:
        self._client = client
        self.history = history

    def __repr__(self) -> str:
        return f"AsyncChat({len(self.history.turns)} turns, {self.history.num_positions} positions)"

    @property
    def turns(self) -> tuple[tuple[str, str], ...]:
        """Each question with its answer."""
        return self.history.turns

    async def ask(self, question: str, **options: Unpack[TurnOptions]) -> Answer:
        """Ask the next question and wait for its whole answer; errors are those of `Chat.ask`."""
        with self._learning():
            answer = await self._client.ask(**self.history.ask_options(question, options))
        self.history.add(question, answer, options)
        return answer

    @asynccontextmanager
    async def stream(self, question: str, **options: Unpack[TurnOptions]) -> AsyncIterator[AsyncAnswerStream]:
        """Ask the next question, in an `async with` block, and get the answer while it is written."""
        with self._learning():
            async with self._client.stream(**self.history.ask_options(question, options)) as stream:
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
