"""An OpenTelemetry collector: takes spans by OTLP over HTTP, as Triton, vLLM and OpenTelemetry's SDK send them."""

import base64
import gzip
import re
import threading
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self

from google.protobuf import json_format
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

_IDS = re.compile(rb'("(?:traceId|spanId|parentSpanId)"\s*:\s*")([0-9a-fA-F]*)"')


@dataclass(frozen=True)
class Span:
    """One span; ids are hexadecimal, times nanoseconds since 1970."""

    service: str
    name: str
    trace_id: str
    id: str
    parent_id: str
    started: int
    ended: int
    attributes: dict[str, Any]


class Collector:
    """Listens inside a `with` block and keeps what comes."""

    def __init__(self) -> None:
        self._spans: list[Span] = []
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        """What `--otlp-endpoint` takes."""

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(timeout=10)

    def trace(self, trace_id: str) -> list[Span]:
        """The spans of one trace that have come so far."""
        return [span for span in list(self._spans) if span.trace_id == trace_id]

    def all(self) -> list[Span]:
        """All that have come so far."""
        return list(self._spans)

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        spans = self._spans

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if self.headers.get("Content-Encoding") == "gzip":
                    body = gzip.decompress(body)
                spans.extend(_read(body, is_json=self.headers.get_content_type() == "application/json"))
                self.send_response(200)
                self.send_header("Content-Type", "application/x-protobuf")
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 (the name in the base class)
                del format, args

        return Handler


def _read(body: bytes, *, is_json: bool) -> list[Span]:
    # Triton's exporter writes JSON, which is protobuf's own but for its ids.
    message = (
        json_format.Parse(_IDS.sub(_to_base64, body), ExportTraceServiceRequest(), ignore_unknown_fields=True)
        if is_json
        else ExportTraceServiceRequest.FromString(body)
    )
    return [
        Span(
            service=_attributes(resource.resource.attributes).get("service.name", ""),
            name=span.name,
            trace_id=span.trace_id.hex(),
            id=span.span_id.hex(),
            parent_id=span.parent_span_id.hex(),
            started=span.start_time_unix_nano,
            ended=span.end_time_unix_nano,
            attributes=_attributes(span.attributes),
        )
        for resource in message.resource_spans
        for scope in resource.scope_spans
        for span in scope.spans
    ]


def _to_base64(found: re.Match[bytes]) -> bytes:
    return found[1] + base64.b64encode(bytes.fromhex(found[2].decode())) + b'"'


def _attributes(pairs: Any) -> dict[str, Any]:
    return {pair.key: getattr(pair.value, pair.value.WhichOneof("value") or "string_value") for pair in pairs}
