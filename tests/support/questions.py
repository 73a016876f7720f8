"""Callers who ask known questions while servers come and go, and what became of each."""

import random
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count
from types import TracebackType
from typing import Any, Self

import numpy as np
from video_llava_client import VideoLlava, VideoLlavaError

from .callers import ENDLESS

_NUM_CALLERS = 2
_seeds = count(20_261_125)


def new_video() -> np.ndarray:
    """Frames that no server knows."""
    return np.random.default_rng(next(_seeds)).integers(0, 256, (8, 56, 56, 3), np.uint8)


@dataclass
class Question:
    """What is asked, and the tokens of its answer once they are known."""

    text: str
    media: dict[str, Any]
    max_tokens: int = 12
    token_ids: tuple[int, ...] = ()

    def options(self, *, slowly: bool = False) -> dict[str, Any]:
        sampling = ENDLESS if slowly else {"ignore_eos": True}
        return {**self.media, "max_tokens": self.max_tokens, "temperature": 0, "sampling": sampling}


@dataclass
class Asked:
    """One time that a question was asked, and what came of it."""

    question: Question
    token_ids: tuple[int, ...] = ()
    finish_reasons: list[str] = field(default_factory=list)
    error: VideoLlavaError | None = None

    def ask(self, client: VideoLlava, *, slowly: bool, on_begin: Callable[[], object]) -> None:
        try:
            with client.stream(self.question.text, **self.question.options(slowly=slowly)) as stream:
                for delta in stream:
                    on_begin()
                    self.token_ids += delta.token_ids
                    self.finish_reasons += filter(None, [delta.finish_reason])
        except VideoLlavaError as exc:
            self.error = exc


class Load:
    """Callers who ask one question after the other, with the client's own retries, inside a `with` block."""

    def __init__(self, client: VideoLlava, questions: list[Question]) -> None:
        self.asked: list[Asked] = []
        self._client = client
        self._questions = questions
        self._end = threading.Event()
        self._threads: list[threading.Thread] = []

    def __enter__(self) -> Self:
        for number in range(_NUM_CALLERS):
            self._start(self._call, number)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end.set()
        for thread in self._threads:
            thread.join(timeout=120)
        assert not any(thread.is_alive() for thread in self._threads)

    def begin_long_stream(self, question: Question) -> None:
        """Return once the first token has come."""
        begun = threading.Event()
        self._start(lambda: self._ask(question, slowly=True, on_begin=begun.set))
        assert begun.wait(timeout=60)

    def _start(self, target: Callable[..., None], *arguments: Any) -> None:
        thread = threading.Thread(target=target, args=arguments)
        self._threads.append(thread)
        thread.start()

    def _call(self, number: int) -> None:
        choose = random.Random(number)
        while not self._end.wait(choose.uniform(0.5, 1.5)):
            self._ask(choose.choice(self._questions))

    def _ask(self, question: Question, *, slowly: bool = False, on_begin: Callable[[], object] = lambda: None) -> None:
        asked = Asked(question)
        self.asked.append(asked)
        asked.ask(self._client, slowly=slowly, on_begin=on_begin)


def known_questions(client: VideoLlava) -> list[Question]:
    """Ask each once, so that its answer is known."""
    media = [*({"video": new_video()} for _ in range(4)), *({} for _ in range(4))]
    questions = [Question(f"What of {number}?", each) for number, each in enumerate(media)]
    for question in questions:
        question.token_ids = client.ask(question.text, **question.options()).token_ids
    return questions
