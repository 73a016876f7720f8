"""Options that several commands share, in groups."""

from __future__ import annotations

import functools
import inspect
import json
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import MISSING, Field, dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import typer

from ..errors import OptionError
from ..request import DEFAULT_MAX_TOKENS
from ..retry import Retry
from ..settings import DEFAULT_TIMEOUT_SECONDS
from ..tls import Tls

if TYPE_CHECKING:
    from ..workers.pool import DecoderProcesses


@dataclass(frozen=True)
class ConnectionOptions:
    """Where the server is and how to reach it."""

    url: Annotated[
        str,
        typer.Option(
            envvar="VIDEO_LLAVA_URL",
            help="host:port of the server's gRPC service; several separated by commas, or dns:///host:port.",
        ),
    ] = "localhost:8001"
    timeout: Annotated[float, typer.Option(help="Seconds that an answer may take.")] = DEFAULT_TIMEOUT_SECONDS
    model: Annotated[str, typer.Option(help="The model's name on the server.")] = "video_llava"
    attempts: Annotated[int, typer.Option(help="How often to ask a server that is full or not reachable.")] = (
        Retry.num_attempts
    )
    tls: Annotated[bool, typer.Option("--tls", help="Encrypt the connection; implied by the files below.")] = False
    tls_ca: Annotated[
        Path | None, typer.Option(help="PEM file of the authority that signed the server's certificate.")
    ] = None
    tls_cert: Annotated[Path | None, typer.Option(help="PEM file of the client certificate, for mutual TLS.")] = None
    tls_key: Annotated[Path | None, typer.Option(help="PEM file of the client certificate's key.")] = None
    tls_name: Annotated[
        str | None, typer.Option(help="The name in the server's certificate, if it is not the address.")
    ] = None
    header: Annotated[
        list[str], typer.Option(metavar="NAME=VALUE", help="gRPC metadata for each request; repeatable.")
    ] = field(default_factory=list)
    token: Annotated[
        str | None, typer.Option(envvar="VIDEO_LLAVA_TOKEN", show_envvar=True, help="Sent as a bearer token.")
    ] = None

    def arguments(self) -> dict[str, Any]:
        """Return the arguments for `VideoLlava`."""
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
class DecodingOptions:
    """Where files are decoded."""

    isolated: Annotated[
        bool,
        typer.Option(
            "--isolated", help="Decode files from strangers in processes with limits on time, CPU and memory."
        ),
    ] = False

    def decoders(self) -> AbstractContextManager[DecoderProcesses | None]:
        """Return the processes that decode, if wanted."""
        if not self.isolated:
            return nullcontext()
        from ..workers.pool import DecoderProcesses

        return DecoderProcesses()


@dataclass(frozen=True)
class WindowOptions:
    """The part of a video."""

    start: Annotated[
        float | None, typer.Option(help="Use only frames from this second on, counted from the first frame.")
    ] = None
    end: Annotated[float | None, typer.Option(help="Use only frames before this second.")] = None
    video_stream: Annotated[int | None, typer.Option(help="Use this stream of a file with several videos.")] = None

    def arguments(self) -> dict[str, Any]:
        """Return the arguments for `VideoLlava.ask`."""
        return {"start_seconds": self.start, "end_seconds": self.end, "video_stream": self.video_stream}


@dataclass(frozen=True)
class SamplingOptions:
    """How the answer is generated."""

    max_tokens: Annotated[int, typer.Option(help="Longest answer, in tokens.")] = DEFAULT_MAX_TOKENS
    temperature: Annotated[float, typer.Option(help="0: always the most likely token; higher: more varied.")] = 0.0
    top_p: Annotated[
        float | None, typer.Option(help="Choose among the most likely tokens with this total probability.")
    ] = None
    top_k: Annotated[int | None, typer.Option(help="Choose among this many of the most likely tokens.")] = None
    seed: Annotated[int | None, typer.Option(help="Makes an answer with temperature repeatable.")] = None
    stop: Annotated[list[str], typer.Option(help="End the answer before this text; repeatable.")] = field(
        default_factory=list
    )
    choice: Annotated[list[str], typer.Option(help="Answer with one of these; repeatable.")] = field(
        default_factory=list
    )
    json_schema: Annotated[str | None, typer.Option(metavar="JSON|FILE", help="Answer with JSON of this schema.")] = (
        None
    )
    regex: Annotated[str | None, typer.Option(help="Answer with a text that matches this expression.")] = None
    grammar: Annotated[str | None, typer.Option(metavar="EBNF|FILE", help="Answer by this grammar.")] = None
    sampling: Annotated[
        str | None, typer.Option(metavar="JSON", help="Other SamplingParams of vLLM's; overrides the options above.")
    ] = None

    def arguments(self) -> dict[str, Any]:
        """Return the arguments for `VideoLlava.ask`."""
        return {"max_tokens": self.max_tokens, "temperature": self.temperature, "sampling": self._sampling()}

    def _sampling(self) -> dict[str, Any]:
        given: dict[str, Any] = {"top_p": self.top_p, "top_k": self.top_k, "seed": self.seed, "stop": self.stop}
        sampling = {name: value for name, value in given.items() if value not in (None, [])}
        structured = self._structured()
        if structured:
            sampling["structured_outputs"] = structured
        return sampling | _json_object("--sampling", self.sampling or "{}")

    def _structured(self) -> dict[str, Any]:
        given = {
            "choice": self.choice or None,
            "json": self.json_schema and _json_object("--json-schema", _text_or_file(self.json_schema)),
            "regex": self.regex,
            "grammar": self.grammar and _text_or_file(self.grammar),
        }
        structured = {name: value for name, value in given.items() if value is not None}
        if len(structured) > 1:
            raise OptionError("--choice, --json-schema, --regex and --grammar exclude each other: give one of them")
        return structured


def expanded(command: Callable[..., None]) -> Callable[..., None]:
    """Return `command` for typer: the fields of each parameter that is a dataclass become parameters."""
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
    except (OSError, ValueError):  # not the name of a file
        return text


def _json_object(option: str, text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except json.JSONDecodeError as exc:
        raise OptionError(f"{option} is neither JSON nor a file ({exc}): {text[:80]!r}") from exc
    if not isinstance(value, dict):
        raise OptionError(f"{option} must be a JSON object, got {text[:80]!r}")
    return value
