"""The options that several commands share, each group one dataclass."""

from __future__ import annotations

import functools
import inspect
import json
from collections.abc import Callable
from dataclasses import MISSING, Field, dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import typer

from ..errors import OptionError
from ..request import DEFAULT_MAX_TOKENS
from ..settings import DEFAULT_TIMEOUT_SECONDS, Retry, Tls


@dataclass(frozen=True)
class ConnectionOptions:
    """Where the server is and how to reach it."""

    url: Annotated[
        str,
        typer.Option(
            envvar="VIDEO_LLAVA_URL",
            help="host:port of the server's gRPC service; several with commas between them, or dns:///host:port.",
        ),
    ] = "localhost:8001"
    timeout: Annotated[float, typer.Option(help="Longest wait for an answer, in seconds.")] = DEFAULT_TIMEOUT_SECONDS
    model: Annotated[str, typer.Option(help="The model's name on the server.")] = "video_llava"
    attempts: Annotated[int, typer.Option(help="How often to ask a server that is full or away.")] = Retry.num_attempts
    tls: Annotated[bool, typer.Option("--tls", help="Encrypt the connection; implied by the files below.")] = False
    tls_ca: Annotated[Path | None, typer.Option(help="PEM file of the authority that signed its certificate.")] = None
    tls_cert: Annotated[Path | None, typer.Option(help="PEM file of your own certificate, for mutual TLS.")] = None
    tls_key: Annotated[Path | None, typer.Option(help="PEM file of its key.")] = None
    tls_name: Annotated[str | None, typer.Option(help="The name in its certificate, if not the address's.")] = None
    header: Annotated[
        list[str], typer.Option(metavar="NAME=VALUE", help="gRPC metadata for each request; repeatable.")
    ] = field(default_factory=list)
    token: Annotated[
        str | None, typer.Option(envvar="VIDEO_LLAVA_TOKEN", show_envvar=True, help="Sent as a bearer token.")
    ] = None

    def arguments(self) -> dict[str, Any]:
        """Return the arguments of `VideoLlava` that say the same."""
        return {
            "url": self.url,
            "timeout_seconds": self.timeout,
            "model": self.model,
            "tls": self._tls(),
            "headers": dict(map(_header, self.header)),
            "token": self.token,
            "retry": Retry(num_attempts=self.attempts),
        }

    def _tls(self) -> Tls | None:
        given = (self.tls_ca, self.tls_cert, self.tls_key, self.tls_name)
        if not self.tls and not any(given):
            return None
        return Tls(
            root_certificates=self.tls_ca, certificate=self.tls_cert, key=self.tls_key, server_name=self.tls_name
        )


@dataclass(frozen=True)
class WindowOptions:
    """Which part of a video is looked at."""

    start: Annotated[
        float | None, typer.Option(help="Look only at what is shown from this second on, counted from the first frame.")
    ] = None
    end: Annotated[float | None, typer.Option(help="Look only at what is shown before this second.")] = None

    def arguments(self) -> dict[str, Any]:
        """Return the arguments of `VideoLlava.ask` that say the same."""
        return {"start_seconds": self.start, "end_seconds": self.end}


@dataclass(frozen=True)
class SamplingOptions:
    """How the answer is written."""

    max_tokens: Annotated[int, typer.Option(help="Longest answer, in tokens.")] = DEFAULT_MAX_TOKENS
    temperature: Annotated[float, typer.Option(help="0: always the likeliest token; higher: more varied.")] = 0.0
    top_p: Annotated[float | None, typer.Option(help="Choose among the likeliest that make up this share.")] = None
    top_k: Annotated[int | None, typer.Option(help="Choose among this many of the likeliest.")] = None
    seed: Annotated[int | None, typer.Option(help="Makes a varied answer repeatable.")] = None
    stop: Annotated[list[str], typer.Option(help="End the answer before this text; repeatable.")] = field(
        default_factory=list
    )
    choice: Annotated[list[str], typer.Option(help="Answer with one of these; repeatable.")] = field(
        default_factory=list
    )
    json_schema: Annotated[
        str | None, typer.Option(metavar="JSON|FILE", help="Answer with JSON that fits this schema.")
    ] = None
    regex: Annotated[str | None, typer.Option(help="Answer with a text that matches this.")] = None
    grammar: Annotated[str | None, typer.Option(metavar="EBNF|FILE", help="Answer by this grammar.")] = None
    sampling: Annotated[
        str | None, typer.Option(metavar="JSON", help="Any others of vLLM's SamplingParams; wins over the above.")
    ] = None

    def arguments(self) -> dict[str, Any]:
        """Return the arguments of `VideoLlava.ask` that say the same.

        Raises:
            OptionError: A value cannot be used.
        """
        return {"max_tokens": self.max_tokens, "temperature": self.temperature, "sampling": self._sampling()}

    def _sampling(self) -> dict[str, Any]:
        given: dict[str, Any] = {"top_p": self.top_p, "top_k": self.top_k, "seed": self.seed, "stop": self.stop}
        sampling = {name: value for name, value in given.items() if value not in (None, [])}
        structured = self._structured()
        if structured:
            sampling["structured_outputs"] = structured
        return sampling | _json_object("--sampling", self.sampling or "{}")

    def _structured(self) -> dict[str, Any]:
        structured: dict[str, Any] = {}
        if self.choice:
            structured["choice"] = self.choice
        if self.json_schema is not None:
            structured["json"] = _json_object("--json-schema", _text_or_file(self.json_schema))
        if self.regex is not None:
            structured["regex"] = self.regex
        if self.grammar is not None:
            structured["grammar"] = _text_or_file(self.grammar)
        if len(structured) > 1:
            raise OptionError("--choice, --json-schema, --regex and --grammar exclude each other: give one of them")
        return structured


def expanded(command: Callable[..., None]) -> Callable[..., None]:
    """Return `command` for typer: each parameter that is a dataclass gives way to the dataclass's fields."""
    hints = get_type_hints(command, include_extras=True)
    groups: dict[str, Any] = {name: hint for name, hint in hints.items() if is_dataclass(hint)}
    parameters: list[inspect.Parameter] = []
    for parameter in inspect.signature(command).parameters.values():
        if parameter.name in groups:
            parameters += _parameters(groups[parameter.name])
        else:
            parameters.append(parameter.replace(annotation=hints[parameter.name], kind=inspect.Parameter.KEYWORD_ONLY))

    @functools.wraps(command)
    def run(**values: Any) -> None:
        for name, group in groups.items():
            values[name] = group(**{option.name: values.pop(option.name) for option in fields(group)})
        command(**values)

    run.__signature__ = inspect.Signature(parameters)  # pyright: ignore[reportAttributeAccessIssue]
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return run


def _parameters(group: Any) -> list[inspect.Parameter]:
    hints = get_type_hints(group, include_extras=True)
    return [
        inspect.Parameter(
            option.name, inspect.Parameter.KEYWORD_ONLY, default=_default(option), annotation=hints[option.name]
        )
        for option in fields(group)
    ]


def _default(option: Field[Any]) -> Any:
    return option.default_factory() if option.default_factory is not MISSING else option.default


def _header(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals:
        raise OptionError(f"--header takes NAME=VALUE, got {text!r}")
    return name.lower(), value


def _text_or_file(text: str) -> str:
    try:
        return Path(text).read_text(encoding="utf-8")
    except (OSError, ValueError):  # it is no file's name, nor could it be
        return text


def _json_object(option: str, text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except json.JSONDecodeError as exc:
        raise OptionError(f"{option} is neither JSON nor a file ({exc}): {text[:80]!r}") from exc
    if not isinstance(value, dict):
        raise OptionError(f"{option} must be a JSON object, got {text[:80]!r}")
    return value
