"""With `tensor_parallel_size` two processes share the language model, and the tokens stay the same."""

import psutil
import pytest
from support.small_server import TENSOR_PARALLEL_SIZE, SmallServer
from video_llava_client import VideoLlava

MAX_TOKENS = 24


@pytest.mark.skipif(TENSOR_PARALLEL_SIZE < 2, reason="each of the two processes wants a core")
def test_two_processes_give_the_references_tokens(small: SmallServer, reference, clip_path, card_frames):
    with VideoLlava(small.url, timeout_seconds=120) as client:
        of_text = client.ask("What is a bicycle?", max_tokens=MAX_TOKENS)
        of_video = client.ask("What happens?", video=clip_path, max_tokens=MAX_TOKENS)
    assert sum(map(is_worker, small.launcher.descendants())) == 2
    text, video = "USER: What is a bicycle? ASSISTANT:", "USER: <video>\nWhat happens? ASSISTANT:"
    assert list(of_text.token_ids) == reference.answer(text, max_new_tokens=MAX_TOKENS).token_ids
    want = reference.answer(video, videos=[card_frames], max_new_tokens=MAX_TOKENS)
    assert list(of_video.token_ids) == want.token_ids


def is_worker(process: psutil.Process) -> bool:
    return "VLLM::Worker" in " ".join(process.cmdline())
