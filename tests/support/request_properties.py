"""What must hold for whatever callers send: it is refused with `InvalidArgument`, or accepted and means what it says.

Each `check_…` takes one case and returns what came of it; where the parser is wrong it raises.
"""

import atexit
import json
import shutil
import tempfile
import warnings
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hypothesis import strategies as st
from safetensors.torch import save_file
from tokenizers import Tokenizer

from support import request_cases as cases
from support import sampling_meaning
from support.model_folder import write_model_folder

with warnings.catch_warnings(action="ignore"):  # what torch and vLLM say of themselves
    from video_llava_server import engine, errors
    from video_llava_server.features import Features, FeatureStore
    from video_llava_server.limits import Limits
    from video_llava_server.manifest import Manifest
    from video_llava_server.prompt import PromptBuilder
    from video_llava_server.prompt_checks import PromptChecker
    from video_llava_server.request import parse_request
    from video_llava_server.sampling import parse_sampling

CHECKPOINT = Path(__file__).parents[1] / "tiny" / "checkpoint"
MAX_ERROR_CHARACTERS = 500
FRAMES, TOKENS_PER_FRAME, TOKENS_PER_IMAGE, SIZE, HIDDEN, MAX_MODEL_LEN = 2, 3, 2, 8, 4, 48
STORE = FeatureStore(1 << 20)


def refused(error: Exception) -> str:
    """Check that an error can be sent and read."""
    text = str(error)
    assert text.startswith("INVALID_ARGUMENT: ")
    assert len(text) <= MAX_ERROR_CHARACTERS, f"{len(text)} characters"
    text.encode()
    return "refused"


# The tensors of a request


def check_request(case: tuple[dict[str, np.ndarray], str]) -> str:
    """What is accepted says the same as the tensors."""
    tensors, parameters = case
    try:
        request = parse_request(tensors, parameters)
    except errors.InvalidArgument as exc:
        return refused(exc)
    assert request.text.encode() == tensors["text_input"].item()
    assert request.stream == flag(tensors, "stream", default=False)
    assert request.echo == (not flag(tensors, "exclude_input_in_output", default=request.stream))
    assert not (request.stream and request.echo)
    wanted = {output for name, output in cases.RETURN_FLAGS.items() if flag(tensors, name, default=False)}
    assert request.optional_outputs == wanted
    given = json.loads(parameters or "{}")
    sampling = {name: value for name, value in given.items() if name in cases.SAMPLING_PARAMETERS}
    assert given.keys() - sampling.keys() <= set(cases.PASSED_PARAMETERS)
    if "sampling_parameters" in tensors:
        assert not sampling
        assert repr(request.sampling) == repr(json.loads(tensors["sampling_parameters"].item() or b"{}"))
    else:
        assert repr(request.sampling) == repr(sampling)
    json.dumps(request.sampling, ensure_ascii=False).encode()
    return "accepted"


def flag(tensors: Mapping[str, np.ndarray], name: str, *, default: bool) -> bool:
    """Read a flag, which must be one truth value where it was accepted."""
    if name not in tensors:
        return default
    assert tensors[name].dtype == np.bool_
    return tensors[name].item()


# Sampling parameters


def check_sampling(case: tuple[dict[str, Any], bool]) -> str:
    """What is accepted has the values that were given and vLLM's defaults; the engine takes or refuses it."""
    sampling, stream = case
    try:
        params = parse_sampling(sampling, stream=stream)
    except errors.InvalidArgument as exc:
        assert "sampling_parameters" in str(exc)
        return refused(exc)
    default = parse_sampling({}, stream=stream)
    sampling_meaning.check(sampling, params, default)
    return ask_the_engine(params)


def ask_the_engine(params: Any) -> str:
    """Let vLLM check the parameters as it does before its engine gets them, then write and read its message."""
    from vllm.exceptions import VLLMClientError
    from vllm.sampling_params import SamplingParams
    from vllm.v1.serial_utils import MsgpackDecoder, MsgpackEncoder

    config, tokenizer = engine_config()
    try:
        params.verify(config.model_config, None, config.structured_outputs_config, tokenizer)
        sent = params.clone()
        sent.update_from_generation_config({}, tokenizer.eos_token_id)
        sent.update_from_tokenizer(tokenizer)
    except (VLLMClientError, ValueError) as exc:
        return refused(errors.InvalidArgument(str(exc))) + " by the engine"
    assert MsgpackDecoder(SamplingParams).decode(MsgpackEncoder().encode(sent)) == sent
    return "accepted"


@cache
def engine_config() -> tuple[Any, Any]:
    """vLLM's configuration and tokenizer for the tiny checkpoint's language model, without an engine."""
    with warnings.catch_warnings(action="ignore"):
        from vllm.tokenizers import cached_tokenizer_from_config

        folder = Path(tempfile.mkdtemp(prefix="fuzz-requests-"))
        try:
            write_language_model(folder)
            config = engine.read_engine_arguments(folder / "model.json").create_engine_config()
            return config, cached_tokenizer_from_config(config.model_config)
        finally:
            shutil.rmtree(folder)


def write_language_model(folder: Path) -> None:
    """Write what vLLM reads of a checkpoint before its weights."""
    text_config = json.loads((CHECKPOINT / "config.json").read_text(encoding="utf-8"))["text_config"]
    text_config |= {"architectures": ["LlamaForCausalLM"], "model_type": "llama"}
    (folder / "config.json").write_text(json.dumps(text_config), encoding="utf-8")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(CHECKPOINT / name, folder)
    arguments = {"model": str(folder), "dtype": "float32", "enforce_eager": True}
    (folder / "model.json").write_text(json.dumps(arguments), encoding="utf-8")


# Prompts


@st.composite
def prompts(draw: st.DrawFn) -> tuple[str, np.ndarray | None, np.ndarray | None, torch.dtype]:
    """Draw a prompt with features: mostly those that its text asks for."""
    text = draw(cases.PROMPTS)
    videos = draw(features(text.count("<video>") * FRAMES * TOKENS_PER_FRAME))
    images = draw(features(text.count("<image>") * TOKENS_PER_IMAGE))
    return text, videos, images, draw(st.sampled_from([torch.float32, torch.bfloat16, torch.float16]))


@st.composite
def features(draw: st.DrawFn, num_rows: int) -> np.ndarray | None:
    """Draw features, float16 or float32, mostly [rows, HIDDEN]; the feature store takes nothing else."""
    kind = draw(st.integers(0, 11))
    if kind == 0:
        return None
    if kind == 2:
        num_rows = draw(st.integers(0, 9))
    columns = draw(st.integers(0, 5)) if kind == 3 else HIDDEN
    values = np.full((num_rows, columns), draw(st.floats(-3, 3, width=32)), np.float32)
    if kind == 4 and values.size:
        values.flat[draw(st.integers(0, values.size - 1))] = draw(st.sampled_from([np.nan, np.inf, -np.inf, 3e38, 7e4]))
    return (values.astype(np.float16) if kind == 5 else values) if values.size else None


def opened(values: np.ndarray | None) -> Features | None:
    """Features as the language model gets them."""
    return None if values is None else Features.open(STORE.put(values))


def check_prompt(case: tuple[str, np.ndarray | None, np.ndarray | None, torch.dtype]) -> str:
    """An accepted prompt has a position for each token and each row of features, in order, finite, and fits."""
    text, videos, images, dtype = case
    builder, manifest, table = prompt_builder(dtype)
    try:
        prompt = builder.build(text, video_features=opened(videos), image_features=opened(images))
    except errors.InvalidArgument as exc:
        return refused(exc)
    assert 0 < len(prompt.token_ids) < MAX_MODEL_LEN
    assert prompt.embeddings.shape == (len(prompt.token_ids), HIDDEN)
    assert prompt.embeddings.dtype == dtype
    embeddings = prompt.embeddings[:]
    assert bool(torch.isfinite(embeddings).all())
    ids = tokenizer().encode(text).ids
    expected = {manifest.video_token_id: FRAMES * TOKENS_PER_FRAME, manifest.image_token_id: TOKENS_PER_IMAGE}
    assert prompt.token_ids == [token for token in ids for _ in range(expected.get(token, 1))]
    sent = {manifest.video_token_id: videos, manifest.image_token_id: images}
    for token, rows in sent.items():
        places = torch.tensor(prompt.token_ids) == token
        if places.any():
            assert torch.equal(embeddings[places], torch.from_numpy(rows).to(dtype))
    text_places = [index for index, token in enumerate(prompt.token_ids) if token not in sent]
    text_ids = [token for token in prompt.token_ids if token not in sent]
    assert torch.equal(embeddings[text_places], table[text_ids].to(dtype))
    return "accepted"


@cache
def tokenizer() -> Tokenizer:
    """The tiny checkpoint's."""
    return Tokenizer.from_file(str(CHECKPOINT / "tokenizer.json"))


@cache
def model_folder() -> tuple[Path, Manifest, torch.Tensor]:
    """A model folder with the tiny checkpoint's tokenizer and an embedding table of few columns."""
    parent = Path(tempfile.mkdtemp(prefix="fuzz-requests-"))
    atexit.register(shutil.rmtree, parent)
    manifest = write_model_folder(
        parent / "fuzz",
        tokenizer(),
        image_size=SIZE,
        num_frames=FRAMES,
        tokens_per_frame=TOKENS_PER_FRAME,
        tokens_per_image=TOKENS_PER_IMAGE,
        hidden_size=HIDDEN,
        max_position_embeddings=MAX_MODEL_LEN,
    )
    table = torch.randn(manifest.vocab_size, HIDDEN, generator=torch.Generator().manual_seed(0))
    save_file({"model.embed_tokens.weight": table}, parent / "fuzz/language_model/model.safetensors")
    return parent / "fuzz", manifest, table


@cache
def prompt_builder(dtype: torch.dtype) -> tuple[PromptBuilder, Manifest, torch.Tensor]:
    """The builder, the manifest and the embedding table that it has."""
    folder, manifest, table = model_folder()
    return PromptBuilder(folder, dtype=dtype, max_model_len=MAX_MODEL_LEN), manifest, table


# The ensemble's first step


@st.composite
def media(draw: st.DrawFn) -> tuple[str, np.ndarray | None, np.ndarray | None]:
    """Draw a prompt with frames: mostly those that its text asks for."""
    text = draw(cases.PROMPTS)
    return text, draw(frames(text.count("<video>") * FRAMES)), draw(frames(text.count("<image>")))


@st.composite
def frames(draw: st.DrawFn, num_frames: int) -> np.ndarray | None:
    """Draw frames, uint8 [num_frames, SIZE, SIZE, 3] or something else."""
    kind = draw(st.integers(0, 9))
    if kind == 0:
        return None
    if kind == 1:
        return draw(cases.ODD_TENSORS)
    shape = [num_frames, SIZE, SIZE, 3]
    if kind == 2:
        shape[draw(st.integers(0, 3))] = draw(st.integers(0, 9))
    return np.zeros(shape, np.float32 if kind == 3 else np.uint8)


def check_intake(case: tuple[str, np.ndarray | None, np.ndarray | None]) -> str:
    """Frames that are let through are those that were sent, as many as the prompt's media take, and all fit."""
    text, videos, images = case
    checker = intake_checker()
    try:
        checked = checker.check_media(text, videos, images)
    except errors.InvalidArgument as exc:
        return refused(exc)
    ids = tokenizer().encode(text).ids
    _, manifest, _ = prompt_builder(torch.float32)
    num_videos, num_images = ids.count(manifest.video_token_id), ids.count(manifest.image_token_id)
    for sent, passed, count in zip((videos, images), checked, (num_videos * FRAMES, num_images), strict=True):
        assert passed.shape == (count, SIZE, SIZE, 3)
        assert passed.dtype == np.uint8
        assert passed is sent or (sent is None and count == 0)
    num_media = num_videos * FRAMES * TOKENS_PER_FRAME + num_images * TOKENS_PER_IMAGE
    assert len(ids) - num_videos - num_images + num_media < MAX_MODEL_LEN
    return "accepted"


@cache
def intake_checker() -> PromptChecker:
    """What `intake` checks with."""
    folder, manifest, _ = model_folder()
    return PromptChecker(Limits.of(manifest, max_model_len=MAX_MODEL_LEN), folder)


PROPERTIES: dict[str, tuple[st.SearchStrategy[Any], Callable[[Any], str]]] = {
    "request": (cases.requests(), check_request),
    "sampling": (st.tuples(cases.samplings(), st.booleans()), check_sampling),
    "prompt": (prompts(), check_prompt),
    "intake": (media(), check_intake),
}
