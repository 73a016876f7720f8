"""The fake server itself."""

import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Self

import grpc
from google.protobuf.message_factory import GetMessageClass

from ..messages import messages, service
from ..server import ENSEMBLE_STEPS, ModelLimits
from .protocol import FakeRequest, error_message, fill, read_request, refusal
from .script import Script, Step, in_turn, respond

MODELS = tuple(sorted((*ENSEMBLE_STEPS, "video_llava")))
LIMITS = ModelLimits(image_size=56, num_frames=8, tokens_per_frame=17, tokens_per_image=16, max_model_len=4096)


class FakeServer:
    """Speaks Triton's gRPC protocol on a port of this machine and answers by a script.

    Args:
        steps: One for each request in turn; the last is repeated. Without any: `Reply()`.
        script: Instead, a function from the request to the step; called by many threads.
        limits: The sizes that the model takes; frames are `limits.image_size` square.
        credentials: TLS, from `grpc.ssl_server_credentials`.
        address: Where to listen, without the port.
        port: 0 is any free one.
        num_threads: How many requests are answered at a time.

    Attributes:
        requests: All requests, in order.
    """

    def __init__(
        self,
        *steps: Step,
        script: Script | None = None,
        limits: ModelLimits = LIMITS,
        credentials: grpc.ServerCredentials | None = None,
        address: str = "127.0.0.1",
        port: int = 0,
        num_threads: int = 256,
    ) -> None:
        self.requests: list[FakeRequest] = []
        self._script = script or in_turn(steps)
        self._limits = limits
        self._credentials = credentials
        self._address = address
        self._port = port
        self._num_threads = num_threads
        self._server: Any = None
        self._open: set[int] = set()

    @property
    def num_open_streams(self) -> int:
        """Streams that are neither answered nor cancelled."""
        return len(self._open)

    @property
    def url(self) -> str:
        """host:port; known after the first start."""
        return f"{self._address}:{self._port}"

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Listen; after a `stop` on the same port again."""
        server: Any = grpc.server(
            ThreadPoolExecutor(self._num_threads, thread_name_prefix="fake-server"),
            options=[("grpc.max_receive_message_length", -1)],
        )
        handlers = {method.name: self._handler(method) for method in service.methods}
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service.full_name, handlers),))
        self._port = self._listen(server)
        server.start()
        self._server = server

    def stop(self) -> None:
        """Stop at once, as a server that is killed: running answers break off."""
        if self._server is not None:
            self._server.stop(grace=None).wait()
            self._server = None

    def then(self, *steps: Step, script: Script | None = None) -> None:
        """From now on use these steps or this script."""
        self._script = script or in_turn(steps)

    def _listen(self, server: Any) -> int:
        if self._credentials is None:
            return server.add_insecure_port(self.url)
        return server.add_secure_port(self.url, self._credentials)

    def _handler(self, method: Any) -> grpc.RpcMethodHandler:
        kind: Any = (
            grpc.stream_stream_rpc_method_handler if method.server_streaming else grpc.unary_unary_rpc_method_handler
        )
        return kind(
            getattr(self, method.name),
            request_deserializer=GetMessageClass(method.input_type).FromString,
            response_serializer=lambda message: message.SerializeToString(),
        )

    def ModelStreamInfer(self, request_iterator: Any, context: Any) -> Iterator[Any]:  # noqa: N802
        """Answer each request of a stream."""
        cancelled, finished = threading.Event(), threading.Event()
        self._open.add(id(context))

        def ended() -> None:
            self._open.discard(id(context))
            if not finished.is_set():
                cancelled.set()

        if not context.add_callback(ended):
            ended()  # it was cancelled before this began
        for message in request_iterator:
            request = read_request(message, context, cancelled, frames_per_video=self._limits.num_frames)
            self.requests.append(request)
            if refused := refusal(request, self._limits):
                yield error_message(refused)
            else:
                for reply in respond(self._script(request), request, context, self._limits):
                    if reply.HasField("infer_response"):
                        reply.infer_response.id = message.id  # as Triton does
                    yield reply
        finished.set()

    def ModelInfer(self, request: Any, context: Any) -> Any:  # noqa: N802
        """Return the model's limits, as `intake` does; refuse anything else."""
        response = messages.ModelInferResponse(model_name=request.model_name)
        if [output.name for output in request.outputs] != ["limits"]:
            context.abort(grpc.StatusCode.UNIMPLEMENTED, "ModelInfer RPC doesn't support models with decoupled policy")
        fill(response, {"limits": json.dumps(self._limits.to_json())})
        return response

    def ServerLive(self, request: Any, context: Any) -> Any:  # noqa: ARG002, N802
        """Return true."""
        return messages.ServerLiveResponse(live=True)

    def ServerReady(self, request: Any, context: Any) -> Any:  # noqa: ARG002, N802
        """Return true."""
        return messages.ServerReadyResponse(ready=True)

    def ModelReady(self, request: Any, context: Any) -> Any:  # noqa: ARG002, N802
        """Return whether there is such a model."""
        return messages.ModelReadyResponse(ready=request.name in MODELS)

    def ServerMetadata(self, request: Any, context: Any) -> Any:  # noqa: ARG002, N802
        """Return the version."""
        return messages.ServerMetadataResponse(name="triton", version="fake")

    def ModelMetadata(self, request: Any, context: Any) -> Any:  # noqa: N802
        """Return the size of an encoder's frames."""
        if request.name not in MODELS:
            context.abort(grpc.StatusCode.NOT_FOUND, f"Request for unknown model: '{request.name}' is not found")
        metadata = messages.ModelMetadataResponse(name=request.name)
        if request.name.endswith("_encoder"):
            size = self._limits.image_size
            metadata.inputs.add(name="frames", datatype="UINT8", shape=[-1, -1, size, size, 3])
        return metadata

    def ModelConfig(self, request: Any, context: Any) -> Any:  # noqa: N802
        """Return the limits, which `intake` has."""
        if request.name not in MODELS:
            context.abort(grpc.StatusCode.NOT_FOUND, f"Request for unknown model: '{request.name}' is not found")
        reply = messages.ModelConfigResponse()
        if request.name == "intake":
            reply.config.parameters["limits"].string_value = json.dumps(self._limits.to_json())
        return reply

    def RepositoryIndex(self, request: Any, context: Any) -> Any:  # noqa: ARG002, N802
        """List the models."""
        index = messages.RepositoryIndexResponse()
        for name in MODELS:
            index.models.add(name=name, version="1", state="READY")
        return index
