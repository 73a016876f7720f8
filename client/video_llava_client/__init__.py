"""Ask Video-LLaVA on a Triton server about videos and images.

with VideoLlava("localhost:8001") as client:
    with client.stream("Why is this video funny?", video="clip.mp4") as stream:
        for delta in stream:
            print(delta.text, end="", flush=True)
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .answers import Answer, Reused, StageSeconds
from .conventions import Conventions
from .delta import Delta, ServerLoad, TokenLogprob
from .errors import (
    AccessDenied,
    Cancelled,
    ContextFull,
    DeadlineExceeded,
    Internal,
    InterruptedStream,
    InvalidRequest,
    MediaError,
    MediaNotFound,
    MediaRefused,
    MediaTimedOut,
    MediaTooLarge,
    NoFrames,
    NoVideoStream,
    OptionError,
    PromptError,
    RequestTooLarge,
    ServerError,
    StateError,
    Unavailable,
    UnreadableMedia,
    VideoLlavaError,
)
from .limits import MediaLimits
from .metadata import DIGEST_HEADER
from .policy import SourcePolicy
from .probe import Probe
from .prompt import build_prompt
from .request import AskOptions, Question
from .retry import Retry
from .server import ModelLimits, ModelStatus, ServerInfo
from .settings import ClientOptions, Timeouts, Token
from .tls import Tls

if TYPE_CHECKING:
    from .async_client import AsyncVideoLlava
    from .chat import AsyncChat, Chat, TurnOptions
    from .client import VideoLlava
    from .clip import Clip, ClipInfo, VideoSource
    from .contact_sheet import write_contact_sheet
    from .images import ImageSource, is_image, load_image
    from .stream import AnswerStream, AsyncAnswerStream
    from .workers.pool import DecoderProcesses

__all__ = [
    "DIGEST_HEADER",
    "AccessDenied",
    "Answer",
    "AnswerStream",
    "AskOptions",
    "AsyncAnswerStream",
    "AsyncChat",
    "AsyncVideoLlava",
    "Cancelled",
    "Chat",
    "ClientOptions",
    "Clip",
    "ClipInfo",
    "ContextFull",
    "Conventions",
    "DeadlineExceeded",
    "DecoderProcesses",
    "Delta",
    "ImageSource",
    "Internal",
    "InterruptedStream",
    "InvalidRequest",
    "MediaError",
    "MediaLimits",
    "MediaNotFound",
    "MediaRefused",
    "MediaTimedOut",
    "MediaTooLarge",
    "ModelLimits",
    "ModelStatus",
    "NoFrames",
    "NoVideoStream",
    "OptionError",
    "Probe",
    "PromptError",
    "Question",
    "RequestTooLarge",
    "Retry",
    "Reused",
    "ServerError",
    "ServerInfo",
    "ServerLoad",
    "SourcePolicy",
    "StageSeconds",
    "StateError",
    "Timeouts",
    "Tls",
    "Token",
    "TokenLogprob",
    "TurnOptions",
    "Unavailable",
    "UnreadableMedia",
    "VideoLlava",
    "VideoLlavaError",
    "VideoSource",
    "build_prompt",
    "is_image",
    "load_image",
    "write_contact_sheet",
]

# Imported when first used: they load gRPC, NumPy or Pillow, most of the time that a command takes to start.
_MODULES = {
    "AnswerStream": "stream",
    "AsyncAnswerStream": "stream",
    "AsyncChat": "chat",
    "AsyncVideoLlava": "async_client",
    "Chat": "chat",
    "TurnOptions": "chat",
    "Clip": "clip",
    "ClipInfo": "clip",
    "DecoderProcesses": "workers.pool",
    "ImageSource": "images",
    "VideoSource": "clip",
    "VideoLlava": "client",
    "is_image": "images",
    "load_image": "images",
    "write_contact_sheet": "contact_sheet",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_MODULES[name]}", __name__), name)
