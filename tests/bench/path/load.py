"""What is asked of a server, by a client that costs little: gRPC messages made beforehand, hardly read."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import count
from statistics import median
from typing import Any

import grpc.aio
import numpy as np
from video_llava_client.messages import messages
from video_llava_client.triton import Methods

from ..shapes import IMAGE_SIZE, NUM_FRAMES
from .server import Server

_SHAPE = (NUM_FRAMES, IMAGE_SIZE, IMAGE_SIZE, 3)
_PROMPT = "USER: <video>\nWhat happens in this video? ASSISTANT:"
_TEXT = "USER: What is a video? ASSISTANT:"
_seeds = count()


@dataclass
class Answer:
    """Seconds from asking to each piece of text; how many tokens came with each."""

    seconds: list[float] = field(default_factory=list)
    num_tokens: list[int] = field(default_factory=list)


def new_video() -> bytes:
    """Return frames that no server has seen."""
    return np.random.default_rng(next(_seeds)).bytes(int(np.prod(_SHAPE)))


def request(frames: bytes | None, *, num_tokens: int, rate: int = 0, num_sequences: int = 1) -> bytes:
    """Return the message that asks for `num_tokens` tokens, streamed, `rate` a second (0: all at once)."""
    message: Any = messages.ModelInferRequest(model_name="video_llava")
    message.parameters["triton_enable_empty_final_response"].bool_param = True
    seed = f', "seed": {rate}' if rate else ""
    texts = {"text_input": _PROMPT if frames else _TEXT}
    texts["sampling_parameters"] = f'{{"temperature": 1, "max_tokens": {num_tokens}, "n": {num_sequences}{seed}}}'
    for name, text in texts.items():
        message.inputs.add(name=name, datatype="BYTES", shape=[1])
        message.raw_input_contents.append(len(text).to_bytes(4, "little") + text.encode())
    for name in ("stream", "return_num_output_tokens"):
        message.inputs.add(name=name, datatype="BOOL", shape=[1])
        message.raw_input_contents.append(b"\1")
    if frames:
        message.inputs.add(name="video_frames", datatype="UINT8", shape=_SHAPE)
        message.raw_input_contents.append(frames)
    return message.SerializeToString()


@asynccontextmanager
async def connect(server: Server) -> AsyncIterator[Methods]:
    options = [("grpc.max_receive_message_length", -1), ("grpc.use_local_subchannel_pool", 1)]
    async with grpc.aio.insecure_channel(server.url, options=options) as channel:
        yield Methods(channel)


async def ask(methods: Methods, message: bytes) -> Answer:
    """Ask and read to the end. Raises RuntimeError for an error."""
    asked, answer = time.perf_counter(), Answer()
    async for response in methods.stream_infer(message):
        if response.error_message:
            raise RuntimeError(response.error_message)
        outputs = response.infer_response
        for output, data in zip(outputs.outputs, outputs.raw_output_contents, strict=True):
            if output.name == "num_output_tokens":
                answer.seconds.append(time.perf_counter() - asked)
                answer.num_tokens.append(int.from_bytes(data, "little"))
    return answer


async def ask_all(methods: Methods, make: Callable[[], bytes], *, number: int, concurrency: int) -> list[Answer]:
    """Ask `number` requests, so many at a time."""
    left, answers = iter(range(number)), list[Answer]()

    async def session() -> None:
        for _ in left:
            answers.append(await ask(methods, make()))

    async with asyncio.TaskGroup() as group:
        for _ in range(concurrency):
            group.create_task(session())
    return answers


def first_token_seconds(answers: Sequence[Answer]) -> float:
    return median(answer.seconds[0] for answer in answers)


def gaps(answers: Sequence[Answer]) -> list[float]:
    """Return the seconds between pieces of each answer, sorted."""
    return sorted(
        later - earlier
        for answer in answers
        for earlier, later in zip(answer.seconds, answer.seconds[1:], strict=False)
    )
