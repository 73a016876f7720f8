"""The kit's `av`: FFmpeg is too large to carry, and nothing is decoded on the machine. Frames come as arrays."""

import sys
from types import ModuleType

_NAMES = {
    "container": "InputContainer",
    "error": "FFmpegError",
    "packet": "Packet",
    "stream": "Discard",
    "video.frame": "VideoFrame",
    "video.stream": "VideoStream",
}
__path__: list[str] = []
for _module in ("video", *_NAMES):
    sys.modules[f"av.{_module}"] = ModuleType(f"av.{_module}")
for _module, _name in _NAMES.items():
    setattr(sys.modules[f"av.{_module}"], _name, type(_name, (Exception,), {}))
error = sys.modules["av.error"]
