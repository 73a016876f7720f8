"""A server for tests of code that uses this client: Triton's gRPC protocol, scripted answers, no model.

from video_llava_client import Unavailable, VideoLlava
from video_llava_client.testing import FakeServer, Refuse, Reply

with FakeServer(Reply("A cat."), Refuse("UNAVAILABLE: full: try later")) as server:
    with VideoLlava(server.url) as client:
        assert client.ask("What is this?", video="clip.mp4").text == "A cat."
    assert server.requests[0].prompt == "USER: <video>\\nWhat is this? ASSISTANT:"

It refuses what the real server refuses: placeholders that do not match the media, frames of another size.
`python -m video_llava_client.testing` runs one, for clients in other languages.
"""

from .protocol import FakeRequest
from .script import Abort, BreakOff, Hang, Refuse, Reply, Script, Step
from .server import FakeServer

__all__ = [
    "Abort",
    "BreakOff",
    "FakeRequest",
    "FakeServer",
    "Hang",
    "Refuse",
    "Reply",
    "Script",
    "Step",
]
