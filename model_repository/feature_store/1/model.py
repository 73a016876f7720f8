"""What Triton loads; the code is the package video_llava_server, installed where Triton runs."""

from video_llava_server.feature_store import TritonPythonModel

__all__ = ["TritonPythonModel"]
