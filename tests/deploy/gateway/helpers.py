"""Requests, and a gateway on a real uvicorn."""

from __future__ import annotations

import asyncio
import base64
import threading
from pathlib import Path
from typing import Any

import httpx
import uvicorn
from openai import OpenAI
from support.waiting import wait_until
from video_llava_client import AsyncVideoLlava, Retry
from video_llava_gateway.app import Gateway
from video_llava_gateway.connections import Server
from video_llava_gateway.file_store import FileStore
from video_llava_gateway.keys import KeyFile
from video_llava_gateway.settings import GatewaySettings

BIKES = Path(__file__).parents[2] / "media" / "bikes.mp4"


def data_url(content: bytes, kind: str = "video/mp4") -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def video_part(content: bytes, **more: Any) -> dict[str, Any]:
    return {"type": "video_url", "video_url": {"url": data_url(content)}, **more}


def ask(*content: Any, **options: Any) -> dict[str, Any]:
    """Return a request of one message."""
    return {"messages": [{"role": "user", "content": list(content)}], **options}


def text_part(text: str) -> dict[str, Any]:
    return {"type": "text", "text": text}


class RunningGateway:
    """A gateway in a thread, until `stop`."""

    def __init__(
        self,
        triton_url: str,
        *,
        keys: Path | None = None,
        files: FileStore | None = None,
        max_connections: int = 64,
        idle_seconds: float = 30.0,
        drain_seconds: float = 10.0,
        client: Any = None,
        uvicorn_options: Any = None,
        **settings: Any,
    ) -> None:
        client = AsyncVideoLlava(triton_url, **{"retry": Retry(num_attempts=1), **(client or {})})
        self.gateway = Gateway(client, GatewaySettings(**settings), keys=KeyFile(keys) if keys else None, files=files)
        self.server = Server(
            uvicorn.Config(self.gateway.app, port=0, access_log=False, log_config=None, **(uvicorn_options or {})),
            middleware=self.gateway.app,
            metrics=self.gateway.metrics,
            close_client=client.close,
            drain_seconds=drain_seconds,
            max_connections=max_connections,
            idle_seconds=idle_seconds,
        )
        self._thread = threading.Thread(target=asyncio.run, args=(self.server.serve(),))
        self._thread.start()
        wait_until(lambda: self.server.started or not self._thread.is_alive())
        self.port = self.server.servers[0].sockets[0].getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"

    def post(self, body: Any, **options: Any) -> httpx.Response:
        return httpx.post(f"{self.url}/v1/chat/completions", json=body, timeout=30, **options)

    def openai(self, api_key: str = "none", **options: Any) -> OpenAI:
        return OpenAI(base_url=f"{self.url}/v1", api_key=api_key, timeout=30, **{"max_retries": 0, **options})

    def metric(self, name: str, **labels: str) -> float:
        """Return the value of a metric, 0 if it has none."""
        found = httpx.get(f"{self.url}/metrics").text
        shown = ",".join(f'{key}="{value}"' for key, value in labels.items())
        line = f"video_llava_gateway_{name}{{{shown}}} " if labels else f"video_llava_gateway_{name} "
        return next((float(each.removeprefix(line)) for each in found.splitlines() if each.startswith(line)), 0.0)

    def drain(self) -> None:
        self.server.handle_exit(15, None)

    def stop(self) -> None:
        self.server.handle_exit(15, None)
        self.server.handle_exit(15, None)
        self._thread.join(20)
        assert not self._thread.is_alive()
