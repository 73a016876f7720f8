"""Conversations about the same media: one for threads, one for asyncio."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Any, Generic, TypedDict, TypeVar, Unpack

from .answers import Answer
from .errors import ContextFull, OptionError
from .prompt import build_prompt
from .request import DEFAULT_MAX_TOKENS, AskOptions
from .settings import Timeouts
from .stream import AnswerStream, AsyncAnswerStream

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from .clip import Clip

Stream = TypeVar("Stream", AnswerStream, AsyncAnswerStream)


class TurnOptions(TypedDict, total=False):
    """The keyword arguments of a turn, described at `VideoLlava.ask`."""

    max_tokens: int
    temperature: float
    timeout_seconds: float | Timeouts | None
    sampling: Mapping[str, Any] | None
    lora_name: str | None


class History:
    """The turns of one conversation and its media.

    Attributes:
        system: What stands before the first turn.
        turns: Each question with its answer.
        clips: The videos, decoded.
        images: The images, decoded, uint8 [height, width, 3].
        num_positions: Tokens that prompt and answer of the last turn took; 0 before the first.
        max_positions: Tokens that the context holds; None until the server has said.
    """

    def __init__(self, clips: Sequence[Clip], images: Sequence[NDArray[Any]], *, system: str = "") -> None:
        self.system = system
        self.turns: tuple[tuple[str, str], ...] = ()
        self.clips: tuple[Clip, ...] = tuple(clips)
        self.images: tuple[NDArray[Any], ...] = tuple(images)
        self.num_positions: int = 0
        self.max_positions: int | None = None

    @property
    def num_positions_left(self) -> int | None:
        """Tokens that are left for the next question and its answer; None until the server has said."""
        return None if self.max_positions is None else max(0, self.max_positions - self.num_positions)

    def ask_options(self, question: str, options: TurnOptions) -> AskOptions:
        """Return the next request: the whole conversation, with each medium once."""
        unknown = set(options) - set(TurnOptions.__annotations__)
        if unknown:
            known = ", ".join(TurnOptions.__annotations__)
            raise OptionError(f"a turn takes {known}, got {', '.join(sorted(unknown))}")
        prompt = build_prompt(
            question,
            num_images=len(self.images),
            num_videos=len(self.clips),
            turns=self.turns,
            system=self.system,
        )
        return AskOptions(prompt=prompt, video=self.clips, images=self.images, **options)

    def add(self, question: str, answer: Answer, options: TurnOptions) -> None:
        """Add a complete turn."""
        self.turns = (*self.turns, (question, answer.text))
        self.num_positions = answer.num_input_tokens + answer.num_output_tokens
        longest = (options.get("sampling") or {}).get("max_tokens") or options.get("max_tokens", DEFAULT_MAX_TOKENS)
        if answer.finish_reason == "length" and answer.num_output_tokens < longest:
            # The engine stopped before `max_tokens`: the context is full.
            self.max_positions = self.num_positions


class BaseChat(Generic[Stream]):
    """What both chats have in common.

    Attributes:
        history: The turns, the media, and how much of the model's context they take.
    """

    def __init__(self, stream: Callable[..., Stream], history: History) -> None:
        self._open_stream = stream
        self.history = history

    def __repr__(self) -> str:
        return f"{type(self).__name__}({len(self.history.turns)} turns, {self.history.num_positions} positions)"

    @property
    def turns(self) -> tuple[tuple[str, str], ...]:
        """Each question with its answer."""
        return self.history.turns

    def clear(self) -> None:
        """Remove all turns; the media stay."""
        self.history.turns = ()
        self.history.num_positions = 0

    @contextmanager
    def _turn(self, question: str, options: TurnOptions) -> Iterator[Stream]:
        """Yield a stream that is not open yet; after the block, add its turn if it is complete."""
        stream = self._open_stream(**self.history.ask_options(question, options))
        try:
            yield stream
        except ContextFull as exc:
            self.history.max_positions = exc.max_positions
            raise
        finally:
            if stream.is_complete:
                self.history.add(question, stream.answer, options)


class Chat(BaseChat[AnswerStream]):
    """A conversation about videos and images, or text alone; made by `VideoLlava.chat`.

    chat = client.chat(video="clip.mp4")
    print(chat.ask("What happens?").text)
    print(chat.ask("Why?").text)

    The server keeps no conversations: each turn sends the whole conversation in the model's format, with the media in
    its first turn. Media are decoded once, and the server's caches have what it has seen. Only a complete answer adds
    a turn: a failed or cancelled one may be asked again. For one thread at a time.
    """

    def ask(self, question: str, **options: Unpack[TurnOptions]) -> Answer:
        """Ask the next question and wait for its whole answer.

        Raises:
            ContextFull: No room is left for an answer: `clear` the chat, or begin another one.
            VideoLlavaError: As `VideoLlava.ask`.
        """
        with self.stream(question, **options) as stream:
            return stream.until_done()

    @contextmanager
    def stream(self, question: str, **options: Unpack[TurnOptions]) -> Iterator[AnswerStream]:
        """Ask the next question, in a `with` block, and get the answer while it is generated; errors as `ask`."""
        with self._turn(question, options) as stream, stream:
            yield stream


class AsyncChat(BaseChat[AsyncAnswerStream]):
    """A conversation as `Chat`, made by `await AsyncVideoLlava.chat(...)`; for one task at a time."""

    async def ask(self, question: str, **options: Unpack[TurnOptions]) -> Answer:
        """Ask the next question and wait for its whole answer; errors as `Chat.ask`."""
        async with self.stream(question, **options) as stream:
            return await stream.until_done()

    @asynccontextmanager
    async def stream(self, question: str, **options: Unpack[TurnOptions]) -> AsyncIterator[AsyncAnswerStream]:
        """Ask the next question, in an `async with` block, and get the answer while it is generated."""
        with self._turn(question, options) as stream:
            async with stream:
                yield stream
