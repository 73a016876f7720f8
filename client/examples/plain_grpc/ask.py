"""Ask Video-LLaVA with nothing but gRPC and stubs made from `inference.proto`: an example for any language.

    pip install grpcio-tools
    python -m grpc_tools.protoc -I. --python_out=. --grpc_python_out=. inference.proto
    python ask.py localhost:8001 "What happens?" frames.rgb

`frames.rgb` has eight frames, RGB, one byte a value, in the width and height that the server takes. FFmpeg can make it,
though not pixel for pixel as the model was trained (8 frames of a 10 s clip, for the 7B):

    ffmpeg -i clip.mp4 -vf "fps=8/10,scale=224:224:force_original_aspect_ratio=increase,crop=224:224" \
        -frames:v 8 -f rawvideo -pix_fmt rgb24 frames.rgb
"""

import json
import struct
import sys
import uuid
from pathlib import Path

import grpc
import inference_pb2 as messages  # pyright: ignore[reportMissingImports] (made by the command above)
import inference_pb2_grpc as services  # pyright: ignore[reportMissingImports]

NUM_FRAMES = 8
TIMEOUT_SECONDS = 120


def main(url: str, question: str, frames_path: str | None = None) -> None:
    """Print the answer as it comes."""
    # gRPC refuses messages over 4 MiB by default; a video of the 7B has 1.2 MB. With its own retries a stream may hang,
    # past its timeout, where the connection fails as it begins (seen in 1.85.1).
    options = [("grpc.max_send_message_length", -1), ("grpc.enable_retries", 0)]
    with grpc.insecure_channel(url, options=options) as channel:
        server = services.GRPCInferenceServiceStub(channel)
        request = make_request(question, has_video=frames_path is not None)
        if frames_path is not None:
            add_input(request, "video_frames", "UINT8", *read_frames(frames_path, frame_size(server)))
        for response in server.ModelStreamInfer(iter([request]), timeout=TIMEOUT_SECONDS):
            if response.error_message:
                sys.exit(response.error_message)
            print(read_text(response.infer_response), end="", flush=True)
    print()


def make_request(question: str, *, has_video: bool = False) -> messages.ModelInferRequest:
    """Return the request without its frames."""
    request = messages.ModelInferRequest(model_name="video_llava", id=str(uuid.uuid4()))
    # Triton marks the last response. Without this, it does not send a last response that has no text.
    request.parameters["triton_enable_empty_final_response"].bool_param = True
    placeholder = "<video>\n" if has_video else ""
    add_input(request, "text_input", "BYTES", [1], string(f"USER: {placeholder}{question} ASSISTANT:"))
    add_input(request, "sampling_parameters", "BYTES", [1], string(json.dumps({"max_tokens": 256, "temperature": 0})))
    add_input(request, "stream", "BOOL", [1], b"\x01")
    return request


def add_input(request: messages.ModelInferRequest, name: str, datatype: str, shape: list[int], data: bytes) -> None:
    """Add one tensor: its description, and its bytes at the same place of another list."""
    request.inputs.add(name=name, datatype=datatype, shape=shape)
    request.raw_input_contents.append(data)


def string(text: str) -> bytes:
    """Return a string in Triton's form: its length in four bytes, little-endian, then UTF-8."""
    data = text.encode()
    return struct.pack("<I", len(data)) + data


def frame_size(server: services.GRPCInferenceServiceStub) -> int:
    """Return the width and height of a frame: the video encoder takes frames [-1, -1, size, size, 3]."""
    reply = server.ModelMetadata(messages.ModelMetadataRequest(name="video_encoder"), timeout=TIMEOUT_SECONDS)
    return reply.inputs[0].shape[2]


def read_frames(path: str, size: int) -> tuple[list[int], bytes]:
    """Return the shape and the bytes of the frames in a file."""
    shape = [NUM_FRAMES, size, size, 3]
    data = Path(path).read_bytes()
    if len(data) != NUM_FRAMES * size * size * 3:
        sys.exit(
            f"{path} has {len(data)} bytes, {NUM_FRAMES} frames of {size} x {size} have {NUM_FRAMES * size**2 * 3}"
        )
    return shape, data


def read_text(response: messages.ModelInferResponse) -> str:
    """Return the new text of a response; the last may have none."""
    for output, data in zip(response.outputs, response.raw_output_contents, strict=True):
        if output.name == "text_output":
            return data[4:].decode()
    return ""


if __name__ == "__main__":
    main(*sys.argv[1:])
