"""A real Triton Inference Server on this machine, without a container.

The server is the `tritonserver` inside the wheel `nvidia-pytriton`; ONNX models run on the `onnxruntime` package
through a Python-based backend that replaces Triton's own. For a demo, tests and a laptop; production runs NVIDIA's
container with the same code and the same model folder.

    with LocalServer(model=Path("models/7b"), http_port=0, grpc_port=0, metrics_port=0) as server:
        client = tritonclient.grpc.InferenceServerClient(server.grpc_url)
"""

from ._errors import (
    InstallationError,
    OptionError,
    PortError,
    RepositoryError,
    ServeError,
    ServerDiedError,
    StartError,
)
from ._server import LocalServer

__all__ = [
    "InstallationError",
    "LocalServer",
    "OptionError",
    "PortError",
    "RepositoryError",
    "ServeError",
    "ServerDiedError",
    "StartError",
]
