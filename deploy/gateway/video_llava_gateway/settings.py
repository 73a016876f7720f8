"""The gateway's settings."""

from __future__ import annotations

import os
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class GatewaySettings:
    """How the gateway treats requests; `video-llava-gateway serve --help` describes each.

    Attributes:
        model_names: Names of the model in requests; `/v1/models` lists them.
        temperature: For requests that name none.
        timeout_seconds: From the whole request to the end of its answer.
        body_seconds: For reading a request; of an upload, for each part of it.
        upload_seconds: For a whole upload, or a download.
        file_seconds: How long an uploaded file is kept.
        max_body_bytes: Of one request.
        max_buffered_bytes: Of all requests that are read or decoded at a time.
        cache_bytes: Of decoded frames that are kept.
        allows_addresses: Media may be http(s) addresses: those that the client's `SourcePolicy` allows.
        num_decoders: Processes that decode.
        has_page: There is a page at `/`.
        host_names: What a Host header may be beside an IP address, such as "*.example.org"; None: anything.
        images_as_video: Two or more images of a message are frames of one video, unless the request says otherwise.
    """

    model_names: tuple[str, ...] = ("video_llava",)
    temperature: float = 1.0
    timeout_seconds: float = 300.0
    body_seconds: float = 60.0
    upload_seconds: float = 3600.0
    file_seconds: float = 24 * 3600.0
    max_body_bytes: int = 64 * 2**20
    max_buffered_bytes: int = 256 * 2**20
    cache_bytes: int = 256 * 2**20
    allows_addresses: bool = False
    images_as_video: bool = False
    num_decoders: int = min(8, os.cpu_count() or 1)
    has_page: bool = True
    host_names: tuple[str, ...] | None = None
