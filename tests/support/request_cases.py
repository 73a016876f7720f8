"""What callers may send, for hypothesis: mostly what somebody could mean, with something odd in it."""

import json
from typing import Any

import numpy as np
from hypothesis import strategies as st
from video_llava_server.sampling import SAMPLING_PARAMETERS
from video_llava_server.tensors import RETURN_FLAGS

ODD_INTEGERS = st.sampled_from([-(2**63) - 1, -(2**63), -2, -1, 0, 2**31, 2**53 + 1, 2**63 - 1, 2**63, 2**64, 10**400])
ODD_FLOATS = st.sampled_from([float("nan"), float("inf"), -float("inf"), -0.0, 5e-324, 1e-300, 1e-30, 1e39, 1e308])
ODD_TEXTS = st.sampled_from(
    ["", " ", "\x00", "null", "NaN", "true", "1", "1.0", "1e3", "-1", "٣", "0x10", "9" * 30, "9" * 5000, "a" * 3000]
)
TEXTS = st.text(max_size=12)
INTEGERS = st.integers(-2, 40) | st.integers() | ODD_INTEGERS
FLOATS = st.floats(-1, 3) | st.floats() | ODD_FLOATS
SCALARS = st.one_of(st.none(), st.booleans(), INTEGERS, FLOATS, TEXTS, ODD_TEXTS)
JSON = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4), max_leaves=8
)
DEEP = st.sampled_from([30, 200, 950]).map(lambda depth: json.loads("[" * depth + "]" * depth))

# The random checkpoint's vocabulary has 1024 tokens, its end token is 2.
TOKEN_IDS = st.integers(0, 1023) | st.sampled_from([-1, 2, 1024, 32064, 2**31, 2**70])
SCHEMAS: tuple[Any, ...] = (
    {},
    {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]},
    {"type": "array", "items": {"enum": ["x", 1, None]}, "minItems": 2, "maxItems": 1},
    {"type": "string", "pattern": "^[a-z]{2,3}$"},
    {"type": "string", "pattern": "("},
    {"type": "nosuch"},
    {"$ref": "#"},
    {"$ref": "http://127.0.0.1/x"},
    {"anyOf": []},
    {"type": "object", "properties": {"not": {"type": "string"}}, "required": ["not"]},
    {"type": "array", "items": {"type": "integer", "not": {"const": 3}}},
    {"$defs": {"a": {"oneOf": [{}, {"type": "string"}]}}, "$ref": "#/$defs/a"},
    {"oneOf": [{"type": "integer"}, {"type": "null"}]},
    {"type": "number", "multipleOf": 0.1, "minimum": 3, "maximum": 1},
    '{"type": "boolean"}',
    "{",
    "",
    "5",
    "null",
)
REGEXES = ("[a-z]+", "(yes|no)", "", ".*", "(", "(?=a)b", "(a*)*b", r"\p{L}{2,4}", "a{3,1}", "\x00", "[", "😀|自転車")
GRAMMARS = (
    'root ::= "yes" | "no"',
    "root ::= [0-9]+",
    'start: "a" | "b"',
    "root ::= missing",
    "root ::=",
    "",
    " ",
    "%%",
)
STRUCTURED = st.one_of(
    st.fixed_dictionaries({"json": st.sampled_from(SCHEMAS) | JSON}),
    st.fixed_dictionaries({"regex": st.sampled_from(REGEXES) | TEXTS}),
    st.fixed_dictionaries({"grammar": st.sampled_from(GRAMMARS) | TEXTS}),
    st.fixed_dictionaries({"choice": st.lists(TEXTS, max_size=4)}),
    st.fixed_dictionaries({"json_object": st.booleans()}),
    st.fixed_dictionaries({"structural_tag": st.sampled_from(["{}", "", "{"]) | TEXTS}),
    st.dictionaries(st.sampled_from(["json", "regex", "choice", "_backend", "whitespace_pattern", "shape"]), JSON),
)
PLAUSIBLE: dict[str, st.SearchStrategy[Any]] = {
    "allowed_token_ids": st.lists(TOKEN_IDS, min_size=1, max_size=5),
    "bad_words": st.lists(TEXTS, max_size=4),
    "frequency_penalty": st.floats(-2, 2),
    "ignore_eos": st.booleans(),
    "include_stop_str_in_output": st.booleans(),
    "logit_bias": st.dictionaries(TOKEN_IDS.map(str), FLOATS | st.integers(-100, 100), max_size=4),
    "logprobs": st.integers(0, 21),
    "max_tokens": st.integers(1, 20),
    "min_p": st.floats(0, 1),
    "min_tokens": st.integers(0, 10),
    "n": st.integers(1, 4),
    "presence_penalty": st.floats(-2, 2),
    "repetition_penalty": st.floats(0.1, 3),
    "seed": st.integers(-5, 2**63 - 1),
    "skip_special_tokens": st.booleans(),
    "spaces_between_special_tokens": st.booleans(),
    "stop": TEXTS | st.lists(TEXTS, max_size=4),
    "stop_token_ids": st.lists(TOKEN_IDS, max_size=5),
    "structured_outputs": STRUCTURED,
    "temperature": st.floats(0, 2),
    "top_k": st.integers(-1, 2000),
    "top_p": st.floats(0, 1),
}
PASSED_PARAMETERS = ("traceparent", "x-request-id", "priority", "triton_enable_empty_final_response")
"""Triton's own parameters of a request, and headers that it forwards."""
OTHER_NAMES = st.sampled_from(["temprature", "", "prompt_logprobs", "extra_args", "_eos_token_id", "output_kind"])


def as_written(values: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Some clients write numbers and truth values as texts."""
    return values | values.map(lambda value: json.dumps(value) if isinstance(value, bool | int | float) else value)


VALUES = {name: as_written(plausible) for name, plausible in PLAUSIBLE.items()}


@st.composite
def samplings(draw: st.DrawFn) -> dict[str, Any]:
    """Draw what `sampling_parameters` says once it is read: a few parameters, most with a value of their kind."""
    names = draw(st.lists(st.sampled_from(SAMPLING_PARAMETERS), max_size=4, unique=True))
    drawn = {name: draw(VALUES[name] if draw(st.integers(0, 7)) else JSON) for name in names}
    if draw(st.integers(0, 19)) == 0:
        drawn[draw(OTHER_NAMES | TEXTS)] = draw(JSON)
    if draw(st.integers(0, 19)) == 0:
        deep = draw(DEEP)
        drawn[draw(st.sampled_from(SAMPLING_PARAMETERS))] = draw(st.sampled_from([deep, {"json": {"enum": deep}}]))
    return drawn


@st.composite
def sampling_texts(draw: st.DrawFn) -> bytes:
    """Draw the bytes of the tensor `sampling_parameters`: JSON, JSON gone wrong, anything."""
    kind = draw(st.integers(0, 9))
    if kind == 0:
        return draw(st.binary(max_size=40))
    if kind == 1:
        opened, closed = draw(st.sampled_from([('{"a":', "}"), ("[", "]"), ('{"stop":[[', "]]}")]))
        depth = draw(st.sampled_from([10, 300, 985, 10**5]))
        inside = f"{opened * depth}1{closed * depth if draw(st.booleans()) else ''}"
        return f'{{"{draw(st.sampled_from(SAMPLING_PARAMETERS))}": {inside}}}'.encode()
    if kind == 2:
        half = draw(st.sampled_from([r"\ud800", r"\udfff", r"a\ud83d", r"\ud83d\ude00"]))
        return f'{{"stop": ["{half}"], "{draw(st.sampled_from(["seed", half]))}": 1}}'.encode()
    if kind == 3:
        return draw(JSON.map(json.dumps)).encode()
    text = json.dumps(draw(samplings()), ensure_ascii=draw(st.booleans())).encode(errors="replace")
    return draw(damaged(text)) if kind == 4 else text


@st.composite
def damaged(draw: st.DrawFn, data: bytes) -> bytes:
    """Change, take out or repeat a few bytes."""
    changed = bytearray(data)
    for _ in range(draw(st.integers(1, 3))):
        start = draw(st.integers(0, len(changed)))
        end = min(len(changed), start + draw(st.integers(0, 4)))
        changed[start:end] = draw(st.sampled_from([b"", bytes(changed[start:end]) * 2]) | st.binary(max_size=2))
    return bytes(changed)


def bytes_tensor(value: bytes) -> np.ndarray:
    """A string [1] as Triton hands it over."""
    return np.array([value], np.object_)


def flag_tensor(value: bool) -> np.ndarray:
    """A truth value [1] as Triton hands it over."""
    return np.array([value])


# Triton compares types and shapes with config.pbtxt, which its operator may have changed.
ODD_TENSORS = st.sampled_from(
    [
        np.empty((0,), np.object_),
        np.empty((0,), np.bool_),
        np.empty((1, 0), np.float32),
        np.array([b"a", b"b"], np.object_),
        np.array([[True, False]]),
        np.array([5], np.int32),
        np.array([np.nan], np.float32),
        np.array([1j]),
        np.array(["text"]),
        np.array([None], np.object_),
        np.array(b"a", np.object_),
    ]
)
PIECES = (
    "USER: ",
    "<video>",
    "<image>",
    "\n",
    "What happens?",
    " ASSISTANT:",
    "</s>",
    "<s>",
    "<unk>",
    "<vid",
    "eo>",
    " ",
    "自転車 🚲",
    "\x00",
    "\u202e",
    "a\u0301",
    "word " * 12,
)
PROMPTS = st.lists(st.sampled_from(PIECES) | st.text(max_size=5), max_size=8).map("".join)
TEXT_TENSORS = st.one_of(
    PROMPTS.map(lambda text: bytes_tensor(text.encode())),
    PROMPTS.map(lambda text: bytes_tensor(text.encode())),
    st.binary(max_size=20).map(bytes_tensor),
    ODD_TENSORS,
)
FLAGS = ("stream", "exclude_input_in_output", *RETURN_FLAGS)


@st.composite
def requests(draw: st.DrawFn) -> tuple[dict[str, np.ndarray], str]:
    """Draw the tensors of a request, and its parameters as Triton's JSON."""
    tensors = {"text_input": draw(TEXT_TENSORS)} if draw(st.integers(0, 19)) else {}
    if draw(st.booleans()):
        tensors["sampling_parameters"] = draw(sampling_texts().map(bytes_tensor) | ODD_TENSORS)
    for name in draw(st.lists(st.sampled_from(FLAGS), max_size=3, unique=True)):
        tensors[name] = draw(st.booleans().map(flag_tensor) | st.booleans().map(flag_tensor) | ODD_TENSORS)
    # Values of Triton's request parameters are texts, numbers and truth values.
    own = st.sampled_from(SAMPLING_PARAMETERS) if draw(st.booleans()) else st.nothing()
    names = own | st.sampled_from(PASSED_PARAMETERS) | (OTHER_NAMES if draw(st.integers(0, 4)) == 0 else st.nothing())
    return tensors, draw(st.just("") | st.dictionaries(names, SCALARS, max_size=3).map(json.dumps))
