"""Two adapters and the model itself on one server: each gives PEFT's own tokens, and none finds another's prefixes."""

import re
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file
from support.adapters import NAMES_OF_VERSION_4, make_adapter
from support.export import ENGINE_ARGUMENTS, FREE_PORTS
from support.reference import Reference
from support.triton import metrics, metrics_page
from video_llava_client import InvalidRequest, VideoLlava
from video_llava_serve import LocalServer

QUESTIONS = ("What happens?", "Describe the video in detail.", "Where is the bicycle?", "And then?")
NUM_TOKENS = 24
LINEAR = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
OF_LANGUAGE_MODEL = rf".*language_model.*\.({'|'.join(LINEAR)})"


@pytest.fixture(scope="module")
def loras(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Adapters that PEFT has saved, one with the names of transformers 4."""
    folder = tmp_path_factory.mktemp("adapters")
    red = {"r": 4, "lora_alpha": 8, "target_modules": r".*language_model.*\.(q_proj|v_proj)"}
    blue = {
        "r": 8,
        "lora_alpha": 16,
        "use_rslora": True,
        "target_modules": OF_LANGUAGE_MODEL,
        "rank_pattern": {"down_proj": 12},
        "alpha_pattern": {r"language_model\.layers\.1\.self_attn\.o_proj": 2},
    }
    made = {"red": make_adapter(checkpoint, folder / "red", scale=0.3, **red)}
    made["blue"] = make_adapter(checkpoint, folder / "blue", seed=1, scale=0.1, **blue)
    _rename(made["red"] / "adapter_model.safetensors")
    return made


def _rename(weights: Path) -> None:
    tensors = load_file(weights)
    for pattern, replacement in NAMES_OF_VERSION_4.items():
        tensors = {re.sub(pattern, replacement, name): tensor for name, tensor in tensors.items()}
    save_file(tensors, weights)


@pytest.fixture(scope="module")
def with_loras(exported: Path, loras: dict[str, Path]) -> Iterator[LocalServer]:
    with LocalServer(model=exported, loras=loras, engine_arguments=ENGINE_ARGUMENTS, **FREE_PORTS) as running:
        yield running
    assert running.stopped_cleanly


@pytest.fixture(scope="module")
def asking(with_loras: LocalServer) -> Iterator[VideoLlava]:
    with VideoLlava(with_loras.grpc_url, timeout_seconds=120) as connected:
        yield connected


@pytest.fixture(scope="module")
def expected(checkpoint: Path, loras: dict[str, Path], card_frames) -> dict[tuple[str | None, str], tuple[int, ...]]:
    """The reference's tokens about the clip, by adapter and question."""
    tokens = {}
    for name in (None, *loras):
        reference = Reference(checkpoint, adapter=loras[name] if name else None)
        for question in QUESTIONS:
            prompt = f"USER: <video>\n{question} ASSISTANT:"
            answer = reference.answer(prompt, videos=[card_frames], max_new_tokens=NUM_TOKENS)
            tokens[name, question] = tuple(answer.token_ids)
    return tokens


def test_each_gives_pefts_tokens_and_none_finds_the_others_prefixes(asking, expected, clip_path):
    assert all(len({expected[name, question] for name in (None, "red", "blue")}) == 3 for question in QUESTIONS)
    num_cached = {}
    for name in (None, "red", None, "blue", "red", None, "blue"):
        answer = asking.ask(QUESTIONS[0], video=clip_path, max_tokens=NUM_TOKENS, lora_name=name)
        assert (name, answer.token_ids) == (name, expected[name, QUESTIONS[0]])
        num_cached.setdefault(name, []).append(answer.num_cached_tokens)
    assert {name: counts[0] for name, counts in num_cached.items()} == {None: 0, "red": 0, "blue": 0}
    assert all(count > 0 for counts in num_cached.values() for count in counts[1:])


def test_a_batch_of_all_three_gives_each_its_own(asking, expected, clip_path):
    clip = asking.load(clip_path)
    cases = [(name, question) for question in QUESTIONS for name in (None, "red", "blue")]
    with ThreadPoolExecutor(len(cases)) as threads:
        answers = threads.map(
            lambda case: asking.ask(case[1], video=clip, max_tokens=NUM_TOKENS, lora_name=case[0]).token_ids, cases
        )
    assert dict(zip(cases, answers, strict=True)) == expected


def test_the_encoders_work_for_all_of_them_and_not_for_an_unknown_name(with_loras, asking, clip_path):
    assert asking.info().limits.lora_names == ("red", "blue")
    asking.ask(QUESTIONS[0], video=clip_path, max_tokens=4, lora_name="red")
    before = metrics(with_loras.metrics_url)
    asking.ask(QUESTIONS[1], video=clip_path, max_tokens=4, lora_name="blue")
    with pytest.raises(InvalidRequest, match=r"'nobody', there is no such adapter: the server has red, blue$"):
        asking.ask(QUESTIONS[1], video=clip_path, lora_name="nobody")
    after = metrics(with_loras.metrics_url)
    assert after["video_llava:video_requests_total{intake}"] - before["video_llava:video_requests_total{intake}"] == 1
    executions = "nv_inference_exec_count{video_encoder}"
    assert after[executions] == before[executions]


def test_each_has_its_metrics(with_loras, asking, clip_path, wait_for):
    def figures(name: str) -> dict[str, float]:
        line = rf'^video_llava:lora_(\w+)\{{.*lora_name="{name}".*\}} (\S+)$'
        return {
            each: float(value) for each, value in re.findall(line, metrics_page(with_loras.metrics_url), re.MULTILINE)
        }

    def is_settled() -> bool:
        """Metrics follow the requests of earlier tests by a moment."""
        before = figures("red"), figures("blue")
        time.sleep(2)
        return before == (figures("red"), figures("blue")) and not any(each["requests_running"] for each in before)

    wait_for(is_settled)
    red, blue = figures("red"), figures("blue")
    asking.ask(QUESTIONS[1], video=clip_path, max_tokens=4, lora_name="red")
    wait_for(lambda: figures("red")["generation_tokens_total"] - red["generation_tokens_total"] == 4)
    wait_for(
        lambda: (
            figures("red") | {"generation_tokens_total": 0}
            == {
                "requests_total": red["requests_total"] + 1,
                "generation_tokens_total": 0,
                "requests_running": 0,
                "requests_waiting": 0,
            }
        )
    )
    assert figures("blue") == blue
