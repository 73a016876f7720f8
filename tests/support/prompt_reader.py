"""A process that takes prompts as vLLM's engine does."""

import gc

import torch
from video_llava_server.prompt_tensor import install
from vllm.v1.serial_utils import MsgpackDecoder


def read_prompts(connection) -> None:
    """Decode tensors, give rows of them, let go of them when told."""
    install()
    decoder, held = MsgpackDecoder(torch.Tensor), {}
    while (message := connection.recv()) is not None:
        command, value = message
        if command == "decode":
            held[len(held)] = decoder.decode([value])
            connection.send(tuple(held[len(held) - 1].shape))
        elif command == "read":
            number, start, stop = value
            connection.send(held[number][start:stop].float().numpy())
        else:
            held.clear()
            gc.collect()
            connection.send(None)
