"""The streamed tokens are the reference's: greedy, float32, token for token."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import pytest
from video_llava_client import Clip, ClipInfo, VideoLlava

MAX_TOKENS = 48


@dataclass(frozen=True)
class Case:
    """A prompt, the names of its videos ("card" is the file as it is) and the numbers of the frames sent as images."""

    prompt: str
    videos: tuple[str, ...] = ()
    images: tuple[int, ...] = ()


LONG = " ".join(
    f"Then look at part {number} of the scene and tell me what has changed since part {number - 1}."
    for number in range(1, 9)
)

CASES = {
    "video": Case("USER: <video>\nWhat happens? ASSISTANT:", videos=("card",)),
    "video, long question": Case(f"USER: <video>\n{LONG} What do you see? ASSISTANT:", videos=("card",)),
    "video, reversed": Case("USER: <video>\nWhat happens? ASSISTANT:", videos=("reversed",)),
    "video, mirrored": Case("USER: <video>\nHow many bicycles are there? ASSISTANT:", videos=("mirrored",)),
    "video last": Case("USER: Watch this. <video> ASSISTANT:", videos=("card",)),
    "two videos": Case("USER: <video>\n<video>\nWhich is first? ASSISTANT:", videos=("card", "mirrored")),
    "image": Case("USER: <image>\nWhat is this? ASSISTANT:", images=(0,)),
    "image, long question": Case(f"USER: <image>\n{LONG} ASSISTANT:", images=(7,)),
    "two images": Case("USER: <image>\n<image>\nWhat differs? ASSISTANT:", images=(0, 7)),
    "image and video": Case("USER: <image>\n<video>\nIs it in there? ASSISTANT:", videos=("card",), images=(3,)),
    "video and image": Case("USER: <video>\n<image>\nIs it in there? ASSISTANT:", videos=("reversed",), images=(5,)),
    "text": Case("USER: What is a bicycle? ASSISTANT:"),
    "text, unicode": Case("USER: Wie heißt das? 自転車 🚲\nSag es. ASSISTANT:"),
    "text, long": Case(f"USER: {LONG} {LONG} Summarize. ASSISTANT:"),
    "second turn": Case(
        "USER: <video>\nWhat happens? ASSISTANT: Two people ride bicycles.</s>USER: Where? ASSISTANT:", videos=("card",)
    ),
    "third turn": Case(
        "USER: <image>\nWhat is it? ASSISTANT: A street.</s>USER: Where? ASSISTANT: In town.</s>USER: When? ASSISTANT:",
        images=(2,),
    ),
}


@pytest.fixture(scope="module")
def clips(card_frames):
    return {"card": card_frames, "reversed": card_frames[::-1], "mirrored": card_frames[:, :, ::-1]}


@pytest.fixture(scope="module")
def expected(reference, clips, card_frames):
    """The reference's answers, by case."""
    return {
        name: reference.answer(
            case.prompt,
            videos=[clips[video] for video in case.videos],
            images=[card_frames[index] for index in case.images],
            max_new_tokens=MAX_TOKENS,
        )
        for name, case in CASES.items()
    }


@pytest.fixture(scope="module")
def ask(client: VideoLlava, clips, card_frames):
    def ask_case(name: str):
        case = CASES[name]
        with client.stream(
            prompt=case.prompt,
            video=[
                Clip(np.ascontiguousarray(clips[video]), ClipInfo(video, tuple(range(8)), (None,) * 8))
                for video in case.videos
            ],
            images=[card_frames[index] for index in case.images],
            max_tokens=MAX_TOKENS,
        ) as stream:
            for _ in stream:
                pass
        return stream.answer

    return ask_case


def test_the_reference_is_clear_cut(expected):
    """Its choices do not hang on float noise, and they depend on what is asked and seen."""
    assert min(answer.smallest_gap for answer in expected.values()) > 1e-3
    assert len({tuple(answer.token_ids) for answer in expected.values()}) == len(CASES)


@pytest.mark.parametrize("name", CASES)
def test_one_by_one(name, ask, expected):
    answer = ask(name)
    assert list(answer.token_ids) == expected[name].token_ids
    assert answer.text.strip() == expected[name].text.strip()
    assert answer.finish_reason == expected[name].finish_reason


def test_all_at_once(ask, expected):
    with ThreadPoolExecutor(len(CASES)) as pool:
        answers = dict(zip(CASES, pool.map(ask, CASES), strict=True))
    assert {name: list(answer.token_ids) for name, answer in answers.items()} == {
        name: answer.token_ids for name, answer in expected.items()
    }


def test_the_file_gives_what_the_decoded_frames_give(client, clip_path, expected):
    answer = client.ask("What happens?", video=clip_path, max_tokens=MAX_TOKENS)
    assert list(answer.token_ids) == expected["video"].token_ids


def test_penalties_count_the_prompts_own_tokens(client, reference):
    """As in the reference, repetition_penalty sees the prompt, although the engine is fed embeddings."""
    prompt = "USER: What is a bicycle? ASSISTANT:"
    penalised = client.ask(prompt=prompt, max_tokens=MAX_TOKENS, sampling={"repetition_penalty": 0.2})
    want = reference.answer(prompt, max_new_tokens=MAX_TOKENS, repetition_penalty=0.2)
    assert list(penalised.token_ids) == want.token_ids
    assert want.token_ids != reference.answer(prompt, max_new_tokens=MAX_TOKENS).token_ids
