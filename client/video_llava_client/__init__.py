"""Ask Video-LLaVA on a Triton server about videos and images.

with VideoLlava("localhost:8001") as client:
    with client.stream("Why is this video funny?", video="clip.mp4") as stream:
        for delta in stream:
            print(delta.text, end="", flush=True)
"""

from .answers import Answer, Delta, StageSeconds
from .client import VideoLlava
from .contact_sheet import write_contact_sheet
from .errors import (
    Cancelled,
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
    ServerError,
    StateError,
    Unavailable,
    UnreadableMedia,
    VideoLlavaError,
)
from .limits import MediaLimits
from .media import Clip, ClipInfo, load_image
from .prompt import build_prompt
from .stream import AnswerStream

__all__ = [
    "Answer",
    "AnswerStream",
    "Cancelled",
    "Clip",
    "ClipInfo",
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
    "NoFrames",
    "NoVideoStream",
    "OptionError",
    "PromptError",
    "ServerError",
    "StageSeconds",
    "StateError",
    "Unavailable",
    "UnreadableMedia",
    "VideoLlava",
    "VideoLlavaError",
    "build_prompt",
    "load_image",
    "write_contact_sheet",
]
