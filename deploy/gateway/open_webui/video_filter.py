"""
title: Videos for Video-LLaVA
description: Sends the videos of a chat to the model. Without it, Open WebUI looks for text in them.
required_open_webui_version: 0.12.0
"""

# pyright: reportMissingImports=false, reportUnknownMemberType=false

import base64
from pathlib import Path

from open_webui.models.files import Files
from open_webui.storage.provider import Storage


class Filter:
    """A filter function of Open WebUI: the videos become content parts of the first question, where they stay."""

    async def inlet(self, body: dict, __user__: dict) -> dict:
        """Take the videos from `body["files"]`; other files stay. Only the user's own files are read."""
        videos = [file for file in body.get("files") or [] if str(file.get("content_type")).startswith("video/")]
        if not videos:
            return body
        parts = [await _content_part(file["id"], __user__["id"]) for file in videos]
        question = next(message for message in body["messages"] if message["role"] == "user")
        content = question["content"]
        text = [{"type": "text", "text": content}] if isinstance(content, str) else content
        question["content"] = parts + text
        body["files"] = [file for file in body["files"] if file not in videos]
        return body


async def _content_part(file_id: str, user_id: str) -> dict:
    file = await Files.get_file_by_id_and_user_id(file_id, user_id)
    if file is None:
        raise ValueError(f"the video {file_id} is not there, or another user's: upload it again")
    data = base64.b64encode(Path(Storage.get_file(file.path)).read_bytes()).decode()
    return {"type": "video_url", "video_url": {"url": f"data:video/mp4;base64,{data}"}}
