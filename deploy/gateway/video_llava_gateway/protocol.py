"""The fields of requests: to /v1/chat/completions as vLLM 0.32 takes them, and to /v1/frames."""

from __future__ import annotations

import json
from collections.abc import Iterable
from mimetypes import guess_type
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator
from video_llava_client.sampling import NUM_FRAMES

from .errors import ApiError, refused

MAX_CHOICES = 16
"""Each choice is a request to Triton of its own."""

_SAMPLING = (
    "allowed_token_ids",
    "bad_words",
    "frequency_penalty",
    "ignore_eos",
    "include_stop_str_in_output",
    "logit_bias",
    "min_p",
    "min_tokens",
    "presence_penalty",
    "repetition_penalty",
    "skip_special_tokens",
    "spaces_between_special_tokens",
    "stop",
    "stop_token_ids",
    "top_k",
    "top_p",
)
"""Fields that go on as they are."""

_IGNORED = {
    "include_reasoning",
    "metadata",
    "mm_payload",
    "parallel_tool_calls",
    "prompt_cache_key",
    "prompt_cache_retention",
    "safety_identifier",
    "service_tier",
    "session_id",
    "store",
    "tools",
    "user",
    "verbosity",
}
"""Fields that change no answer here."""

_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "add_generation_prompt": (True,),
    "best_of": (1,),
    "length_penalty": (1,),
    "media_io_kwargs": ({"video": {"num_frames": NUM_FRAMES}},),
    "modalities": (["text"],),
    "reasoning_effort": ("none",),
    "stream_interval": (1,),
    "tool_choice": ("none", "auto"),
}
"""Values, beside null, false, 0 and empty ones, with which a field that is not supported changes nothing."""


def _as_list(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


def _as_parts(value: Any) -> Any:
    if isinstance(value, str):
        return [{"type": "text", "text": value}]
    if isinstance(value, list):
        return [_as_medium(_with_type(part)) if isinstance(part, dict) else part for part in value]
    return value


def _with_type(part: dict[str, Any]) -> dict[str, Any]:
    kind = next((name for name in ("image_url", "video_url", "text") if name in part), None)
    return part if "type" in part or kind is None else {"type": kind, **part}


def _as_medium(part: dict[str, Any]) -> dict[str, Any]:
    """Return OpenAI's part for a file as the one for a video, or for an image where the file's name or type says so."""
    file = part.get("file")
    if part.get("type") != "file" or not isinstance(file, dict):
        return part
    url, name = file.get("file_id") or file.get("file_data"), file.get("filename")
    given = f"{url}"[:100]
    media_type = guess_type(f"{name}")[0] or given.removeprefix("data:").partition(";")[0]
    kind = "image_url" if media_type.startswith("image/") and media_type != "image/gif" else "video_url"
    return {"type": kind, kind: {"url": url}}


def _as_address(value: Any) -> Any:
    return {"url": value} if isinstance(value, str) else value


class Address(BaseModel):
    """Where a medium is: `{"url": "data:…"}`. `detail` changes nothing here."""

    url: str | None = None


_Address = Annotated[Address | None, BeforeValidator(_as_address)]


class Part(BaseModel):
    """A part of a message's content: a text or a medium."""

    type: Literal["text", "image_url", "video_url"]
    text: str | None = None
    image_url: _Address = None
    video_url: _Address = None
    uuid: str | None = Field(None, min_length=1, max_length=256)

    @property
    def url(self) -> str | None:
        """The address of its medium; None where only `uuid` says which."""
        address = self.image_url if self.type == "image_url" else self.video_url
        return address.url if address else None

    @model_validator(mode="after")
    def _has_content(self) -> Self:
        if self.type == "text" and self.text is None:
            raise ValueError("a part of type 'text' needs 'text'")
        if self.type != "text" and self.url is None and self.uuid is None:
            raise ValueError(f"a part of type {self.type!r} needs {{'{self.type}': {{'url': …}}}} or the uuid of one")
        return self


class Message(BaseModel):
    """One message. `name` and the like change nothing here."""

    role: Literal["system", "developer", "user", "assistant"]
    content: Annotated[list[Part] | None, BeforeValidator(_as_parts)] = None
    tool_calls: Annotated[list[Any] | None, Field(max_length=0)] = None
    function_call: None = None
    audio: None = None


class JsonSchema(BaseModel):
    """The schema of a `response_format`."""

    json_schema: dict[str, Any] = Field(alias="schema")


class ResponseFormat(BaseModel):
    """The form of an answer."""

    model_config = ConfigDict(extra="allow")

    type: Literal["text", "json_object", "json_schema", "structural_tag"]
    json_schema: JsonSchema | None = None

    @model_validator(mode="after")
    def _has_schema(self) -> Self:
        if (self.type == "json_schema") != (self.json_schema is not None):
            raise ValueError("json_schema is needed with type 'json_schema', and with no other")
        return self

    @property
    def structured_outputs(self) -> dict[str, Any]:
        """The same as the server takes it; empty for text."""
        if self.json_schema is not None:
            return {"json": self.json_schema.json_schema}
        tag = json.dumps({"type": self.type, **(self.model_extra or {})})
        return {"text": {}, "json_object": {"json_object": True}}.get(self.type, {"structural_tag": tag})


class StreamOptions(BaseModel):
    """What a stream also says."""

    include_usage: bool | None = None
    continuous_usage_stats: bool | None = None


class MediaOptions(BaseModel):
    """`mm_processor_kwargs`: how media become frames."""

    model_config = ConfigDict(extra="forbid")

    images_as_video: bool | None = None
    start_seconds: Annotated[float | None, Field(ge=0)] = None
    end_seconds: Annotated[float | None, Field(gt=0)] = None


class _Body(BaseModel):
    """The body of a request."""

    @classmethod
    def read(cls, body: bytes | bytearray) -> Self:
        """Return the request in `body`; ApiError names the field that cannot be used."""
        try:
            return cls.model_validate_json(body)
        except ValidationError as exc:
            raise _from_pydantic(exc) from None


class FramesRequest(Part, _Body):
    """A request to /v1/frames: a medium, as a part of a message has it."""

    type: Literal["image_url", "video_url"]  # pyright: ignore[reportIncompatibleVariableOverride] (no text)
    mm_processor_kwargs: MediaOptions | None = None

    @property
    def media_options(self) -> MediaOptions:
        """How it becomes frames."""
        return self.mm_processor_kwargs or MediaOptions()


class ChatRequest(_Body):
    """A request. What it leaves out is as in `vllm serve`: temperature 1, as many tokens as the context holds."""

    model_config = ConfigDict(extra="allow")

    messages: list[Message] = Field(min_length=1)
    model: str | None = None
    max_tokens: int | None = Field(None, ge=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    repetition_penalty: float | None = None
    logit_bias: dict[str, float] | None = None
    seed: int | None = None
    n: int | None = Field(None, ge=1, le=MAX_CHOICES)
    stop: Annotated[list[str] | None, BeforeValidator(_as_list)] = None
    stop_token_ids: list[int] | None = None
    include_stop_str_in_output: bool | None = None
    ignore_eos: bool | None = None
    min_tokens: int | None = None
    allowed_token_ids: list[int] | None = None
    bad_words: list[str] | None = None
    skip_special_tokens: bool | None = None
    spaces_between_special_tokens: bool | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = Field(None, ge=0, le=20)
    response_format: ResponseFormat | None = None
    structured_outputs: dict[str, Any] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    priority: int | None = Field(None, ge=0)
    return_token_ids: bool | None = None
    return_tokens_as_token_ids: bool | None = None
    request_id: str | None = Field(None, pattern=r"^[!-~]{1,128}$")
    mm_processor_kwargs: MediaOptions | None = None

    @classmethod
    def read(cls, body: bytes | bytearray) -> Self:
        """As for any body, and ApiError names what is not supported."""
        request = super().read(body)
        request._check()
        return request

    @property
    def num_choices(self) -> int:
        """How many answers are wanted."""
        return self.n or 1

    @property
    def media_options(self) -> MediaOptions:
        """How media become frames."""
        return self.mm_processor_kwargs or MediaOptions()

    def sampling(self, *, temperature: float) -> dict[str, Any]:
        """Return the sampling parameters, without seed and number of tokens; `temperature` if it names none."""
        given = {name: value for name in _SAMPLING if (value := getattr(self, name)) is not None}
        given["temperature"] = temperature if self.temperature is None else self.temperature
        if self.priority:  # a server of an earlier release does not know it
            given["priority"] = self.priority
        structured = self.structured_outputs or (self.response_format and self.response_format.structured_outputs)
        return given | ({"structured_outputs": structured} if structured else {})

    def _check(self) -> None:
        for name, value in (self.model_extra or {}).items():
            if name not in _IGNORED and value and value not in _NEUTRAL.get(name, ()):
                hint = ": use structured_outputs" if name.startswith("guided_") else ""
                raise refused(name, f"is not supported here{hint}", code="unsupported_parameter")
        if self.top_logprobs and not self.logprobs:
            raise refused("top_logprobs", "needs logprobs true")
        if self.stream_options and not self.stream:
            raise refused("stream_options", "needs stream true")
        if self.structured_outputs and self.response_format and self.response_format.structured_outputs:
            raise refused("response_format", "cannot be given beside structured_outputs: leave out one of them")


def _from_pydantic(exc: ValidationError) -> ApiError:
    error = exc.errors(include_url=False, include_context=False)[0]
    param, message = _path(error["loc"]), error["msg"].removeprefix("Value error, ")
    if not param:
        return ApiError(400, f"the request's body cannot be read: {message}")
    got = error["input"]
    shown = "" if isinstance(got, dict | list) or error["type"] == "missing" else f", got {str(got)[:60]!r}"
    return refused(param, f"{message}{shown}")


def _path(loc: Iterable[int | str]) -> str:
    """Return where an error is, such as "messages[0].content[1].type"."""
    return "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in loc).removeprefix(".")
