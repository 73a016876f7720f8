"""Callers on threads of their own: streams that last as long as a test looks."""

import threading
from typing import Any

from video_llava_client import VideoLlava, VideoLlavaError

from . import slow_steps
from .waiting import wait_until

# With 900 tokens an answer takes 45 s.
ENDLESS: dict[str, Any] = {"ignore_eos": True, "seed": slow_steps.SEED}


class Caller:
    """Streams one answer of `max_tokens` slow tokens.

    Attributes:
        num_tokens: Tokens that have come.
        error: Why the answer is not complete, if it is not.
    """

    def __init__(self, client: VideoLlava, question: str = "What?", *, max_tokens: int = 900) -> None:
        self.num_tokens = 0
        self.error: VideoLlavaError | None = None
        self._leave = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(client, question, max_tokens))
        self._thread.start()

    def _run(self, client: VideoLlava, question: str, max_tokens: int) -> None:
        try:
            with client.stream(question, max_tokens=max_tokens, sampling=ENDLESS) as stream:
                for delta in stream:
                    self.num_tokens += delta.num_output_tokens
                    if self._leave.is_set():
                        return
        except VideoLlavaError as exc:
            self.error = exc

    @property
    def is_done(self) -> bool:
        return not self._thread.is_alive()

    def wait_for_a_token(self) -> None:
        wait_until(lambda: self.num_tokens > 0)

    def leave(self) -> None:
        """Close the stream at the next token; `join` waits for it."""
        self._leave.set()

    def join(self) -> None:
        """Wait for the end of the answer."""
        self._thread.join(timeout=60)
        assert self.is_done
