"""Steps for the fake server, and one way to use the clients of both kinds."""

import asyncio
import json
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from video_llava_client import Answer, AsyncVideoLlava, Delta, ModelLimits, VideoLlava
from video_llava_client.testing import FakeRequest, FakeServer, Reply
from video_llava_client.testing.protocol import answer_message, error_message

SMALL = ModelLimits(image_size=56, num_frames=8, tokens_per_frame=2, tokens_per_image=2, max_model_len=40)

# A shell that runs the tests in the background makes them ignore the interrupt. (Not by `preexec_fn`, which makes Popen
# fork, and gRPC's threads do not survive a fork.)
INTERRUPTIBLE = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler);"
COMMAND = [sys.executable, "-c", f"{INTERRUPTIBLE} from video_llava_client.cli import main; main()"]


@dataclass(frozen=True)
class Raw(Reply):
    """A step that sends what `send(request, context)` returns: deltas and error texts."""

    send: Callable[[FakeRequest, Any], Iterable[Any]] = lambda _request, _context: ()

    def messages(self, request: FakeRequest, context: Any, limits: Any) -> Iterator[Any]:  # noqa: ARG002
        return (error_message(each) if isinstance(each, str) else each for each in self.send(request, context))


def raw(*messages: Any) -> Raw:
    return Raw(send=lambda _request, _context: messages)


def delta(text: str, token: int, *, reason: str = "None", final: bool = False, **more: Any) -> Any:
    """Return one delta of one token, as the server sends it."""
    outputs = {"text_output": text, "finish_reason": reason, "num_input_tokens": 2063, "num_output_tokens": 1}
    outputs |= {"token_ids": f"[{token}]", "num_cached_tokens": 2048}
    if reason != "None":
        outputs["stage_seconds"] = json.dumps({"encode": 0.25, "queue": 0.5, "prefill": 0.125, "decode": 2.0})
    return answer_message(outputs | more, final=final)


# The first word as the model writes it, after `ASSISTANT:`.
CAT = raw(delta(" The", 1), delta(" cat", 2), delta(" jümps.", 3, reason="stop", final=True))


class BlockingStream:
    """An `AsyncAnswerStream`, used from outside its event loop."""

    def __init__(self, stream: Any, runner: asyncio.Runner) -> None:
        self._stream = stream
        self._runner = runner

    def __enter__(self) -> "BlockingStream":
        self._runner.run(self._stream.__aenter__())
        return self

    def __exit__(self, *_: object) -> None:
        self._runner.run(self._stream.__aexit__())

    def __iter__(self) -> "BlockingStream":
        return self

    def __next__(self) -> Delta:
        async def step() -> Delta | None:
            return await anext(self._stream, None)

        if (delta := self._runner.run(step())) is None:
            raise StopIteration
        return delta

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


class Connected:
    """A client of either kind, used from outside an event loop."""

    def __init__(self, kind: type[VideoLlava | AsyncVideoLlava], url: Any, **options: Any) -> None:
        self.client = kind(url, **options)
        self._runner = asyncio.Runner() if kind is AsyncVideoLlava else None

    def call(self, name: str, *arguments: Any, **options: Any) -> Any:
        result = getattr(self.client, name)(*arguments, **options)
        return self._runner.run(result) if self._runner else result

    def ask(self, question: str = "Hello?", **options: Any) -> Answer:
        return self.call("ask", question, **options)

    def stream(self, question: str = "Hello?", **options: Any) -> Any:
        """Return a stream that is used as the blocking one is."""
        stream = self.client.stream(question, **options)
        return BlockingStream(stream, self._runner) if self._runner else stream

    def read(self, question: str = "Hello?", **options: Any) -> list[Delta]:
        """Return the deltas of a stream."""
        with self.stream(question, **options) as stream:
            return list(stream)

    def close(self) -> None:
        self.call("close")
        if self._runner:
            self._runner.close()


def replace_method(monkeypatch: Any, server: FakeServer, name: str, method: Callable[..., Any]) -> None:
    """Let the fake server answer one of Triton's methods by `method(server, request, context)`."""
    monkeypatch.setattr(FakeServer, name, method)
    server.stop()
    server.start()
