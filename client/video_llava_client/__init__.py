"""Ask Video-LLaVA on a Triton server about videos and images.

with VideoLlava("localhost:8001") as client:
    with client.stream("Why is this video funny?", video="clip.mp4") as stream:
        for delta in stream:
            print(delta.text, end="", flush=True)
"""

from .answers import Answer, Delta, Reused, StageSeconds
from .async_chat import AsyncChat
from .async_client import AsyncVideoLlava
from .async_stream import AsyncAnswerStream
from .chat import Chat
from .client import VideoLlava
from .contact_sheet import write_contact_sheet
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
from .media import Clip, ClipInfo, load_image
from .metadata import DIGEST_HEADER
from .probe import Probe
from .prompt import build_prompt
from .server import ModelLimits, ModelStatus, ServerInfo
from .settings import Retry, Tls
from .stream import AnswerStream

__all__ = [
    "DIGEST_HEADER",
    "AccessDenied",
    "Answer",
    "AnswerStream",
    "AsyncAnswerStream",
    "AsyncChat",
    "AsyncVideoLlava",
    "Cancelled",
    "Chat",
    "Clip",
    "ClipInfo",
    "ContextFull",
    "DeadlineExceeded",
    "Delta",
    "Internal",
    "InterruptedStream",
    "InvalidRequest",
    "MediaError",
    "MediaLimits",
    "MediaNotFound",
    "MediaTimedOut",
    "MediaTooLarge",
    "ModelLimits",
    "ModelStatus",
    "NoFrames",
    "NoVideoStream",
    "OptionError",
    "Probe",
    "PromptError",
    "RequestTooLarge",
    "Retry",
    "Reused",
    "ServerError",
    "ServerInfo",
    "StageSeconds",
    "StateError",
    "Tls",
    "Unavailable",
    "UnreadableMedia",
    "VideoLlava",
    "VideoLlavaError",
    "build_prompt",
    "load_image",
    "write_contact_sheet",
]
