"""Options that several commands share, in groups."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..errors import OptionError
from ..request import DEFAULT_MAX_TOKENS
from ..retry import Retry
from ..settings import DEFAULT_TIMEOUT_SECONDS
from ..tls import Tls

if TYPE_CHECKING:
    from ..workers.pool import DecoderProcesses

SETTINGS = {"help_option_names": ["-h", "--help"], "show_default": True}  # of every command

_PATH = click.Path(path_type=Path)


def option(*flags: str, **settings: Any) -> Any:
    """Return a field of a group that is an option of click's."""
    return field(metadata={"option": click.option(*flags, **settings)})


def takes(**groups: Any) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command the options of these groups, each as one keyword argument."""

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(command)
        def run(**values: Any) -> None:
            for name, group in groups.items():
                values[name] = group(**{each.name: values.pop(each.name) for each in fields(group)})
            command(**values)

        for group in reversed(groups.values()):
            for each in reversed(fields(group)):
                run = each.metadata["option"](run)
        return run

    return decorate


@dataclass(frozen=True)
class ConnectionOptions:
    """Where the server is and how to reach it."""

    url: str = option(
        "--url",
        default="localhost:8001",
        show_envvar=True,
        envvar="VIDEO_LLAVA_URL",
        help="host:port of the server's gRPC service; several separated by commas, or dns:///host:port.",
    )
    timeout: float = option("--timeout", default=DEFAULT_TIMEOUT_SECONDS, help="Seconds that an answer may take.")
    model: str = option("--model", default="video_llava", help="The model's name on the server.")
    attempts: int = option(
        "--attempts", default=Retry.num_attempts, help="How often to ask a server that is full or not reachable."
    )
    tls: bool = option("--tls", is_flag=True, help="Encrypt the connection; implied by the files below.")
    tls_ca: Path | None = option(
        "--tls-ca", type=_PATH, help="PEM file of the authority that signed the server's certificate."
    )
    tls_cert: Path | None = option("--tls-cert", type=_PATH, help="PEM file of the client certificate, for mutual TLS.")
    tls_key: Path | None = option("--tls-key", type=_PATH, help="PEM file of the client certificate's key.")
    tls_name: str | None = option("--tls-name", help="The name in the server's certificate, if it is not the address.")
    header: tuple[str, ...] = option(
        "--header", multiple=True, metavar="NAME=VALUE", help="gRPC metadata for each request; repeatable."
    )
    token: str | None = option("--token", envvar="VIDEO_LLAVA_TOKEN", show_envvar=True, help="Sent as a bearer token.")

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

    isolated: bool = option(
        "--isolated", is_flag=True, help="Decode files from strangers in processes with limits on time, CPU and memory."
    )

    def decoders(self) -> AbstractContextManager[DecoderProcesses | None]:
        """Return the processes that decode, if wanted."""
        if not self.isolated:
            return nullcontext()
        from ..workers.pool import DecoderProcesses

        return DecoderProcesses()


@dataclass(frozen=True)
class WindowOptions:
    """The part of a video."""

    start: float | None = option(
        "--start", type=float, help="Use only frames from this second on, counted from the first frame."
    )
    end: float | None = option("--end", type=float, help="Use only frames before this second.")
    video_stream: int | None = option("--video-stream", type=int, help="Use this stream of a file with several videos.")

    def arguments(self) -> dict[str, Any]:
        """Return the arguments for `VideoLlava.ask`."""
        return {"start_seconds": self.start, "end_seconds": self.end, "video_stream": self.video_stream}


@dataclass(frozen=True)
class SamplingOptions:
    """How the answer is generated."""

    max_tokens: int = option("--max-tokens", default=DEFAULT_MAX_TOKENS, help="Longest answer, in tokens.")
    temperature: float = option(
        "--temperature", default=0.0, help="0: always the most likely token; higher: more varied."
    )
    top_p: float | None = option(
        "--top-p", type=float, help="Choose among the most likely tokens with this total probability."
    )
    top_k: int | None = option("--top-k", type=int, help="Choose among this many of the most likely tokens.")
    seed: int | None = option("--seed", type=int, help="Makes an answer with temperature repeatable.")
    stop: tuple[str, ...] = option("--stop", multiple=True, help="End the answer before this text; repeatable.")
    lora: str | None = option("--lora", metavar="NAME", help="Answer with this LoRA adapter of the server.")
    choice: tuple[str, ...] = option("--choice", multiple=True, help="Answer with one of these; repeatable.")
    json_schema: str | None = option("--json-schema", metavar="JSON|FILE", help="Answer with JSON of this schema.")
    regex: str | None = option("--regex", help="Answer with a text that matches this expression.")
    grammar: str | None = option("--grammar", metavar="EBNF|FILE", help="Answer by this grammar.")
    sampling: str | None = option(
        "--sampling", metavar="JSON", help="Other SamplingParams of vLLM's; overrides the options above."
    )

    def arguments(self) -> dict[str, Any]:
        """Return the arguments for `VideoLlava.ask`."""
        return {
            "max_tokens": self.max_tokens,
            "temperature": self.temperature,
            "sampling": self._sampling(),
            "lora_name": self.lora,
        }

    def _sampling(self) -> dict[str, Any]:
        given: dict[str, Any] = {
            "top_p": self.top_p,
            "top_k": self.top_k,
            "seed": self.seed,
            "stop": list(self.stop) or None,
        }
        sampling = {name: value for name, value in given.items() if value is not None}
        structured = self._structured()
        if structured:
            sampling["structured_outputs"] = structured
        return sampling | _json_object("--sampling", self.sampling or "{}")

    def _structured(self) -> dict[str, Any]:
        given = {
            "choice": list(self.choice) or None,
            "json": self.json_schema and _json_object("--json-schema", _text_or_file(self.json_schema)),
            "regex": self.regex,
            "grammar": self.grammar and _text_or_file(self.grammar),
        }
        structured = {name: value for name, value in given.items() if value is not None}
        if len(structured) > 1:
            raise OptionError("--choice, --json-schema, --regex and --grammar exclude each other: give one of them")
        return structured


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
