"""What Triton loads; the code is the package video_llava_server, installed where Triton runs."""

from video_llava_server.relay import TritonPythonModel

__all__ = ["TritonPythonModel"]
