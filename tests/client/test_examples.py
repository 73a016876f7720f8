"""The example for other languages works, and its protocol is Triton's own."""

import shutil
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import video_llava_client
from google.protobuf import descriptor_pb2
from video_llava_client.testing import FakeServer, Refuse, Reply

EXAMPLE = Path(__file__).parents[2] / "client" / "examples" / "plain_grpc"


@pytest.fixture(scope="module")
def stubs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("stubs")
    for name in ("inference.proto", "ask.py"):
        shutil.copy(EXAMPLE / name, folder)
    options = ["-I.", "--python_out=.", "--grpc_python_out=.", "--descriptor_set_out=set.pb", "inference.proto"]
    subprocess.run([sys.executable, "-m", "grpc_tools.protoc", *options], cwd=folder, check=True, timeout=60)
    return folder


def ask(stubs, *arguments):
    command = [sys.executable, "ask.py", *map(str, arguments)]
    return subprocess.run(command, cwd=stubs, capture_output=True, text=True, timeout=60)


@pytest.fixture
def server():
    with FakeServer(Reply("A cat sleeps.")) as running:
        yield running


def test_a_question(stubs, server):
    asked = ask(stubs, server.url, "What?")
    assert (asked.returncode, asked.stdout, asked.stderr) == (0, " A cat sleeps.\n", "")
    assert server.requests[0].prompt == "USER: What? ASSISTANT:"


def test_a_question_about_frames(stubs, server):
    frames = np.random.default_rng(0).integers(0, 256, (8, 56, 56, 3), np.uint8)
    frames.tofile(stubs / "frames.rgb")
    assert ask(stubs, server.url, "What?", "frames.rgb").stdout == " A cat sleeps.\n"
    assert server.requests[0].prompt == "USER: <video>\nWhat? ASSISTANT:"
    assert np.array_equal(server.requests[0].video_frames, frames)


def test_frames_of_another_size(stubs, server):
    (stubs / "short.rgb").write_bytes(b"x" * 99)
    asked = ask(stubs, server.url, "What?", "short.rgb")
    assert (asked.returncode, asked.stderr) == (1, "short.rgb has 99 bytes, 8 frames of 56 x 56 have 75264\n")


def test_a_refusal(stubs, server):
    server.then(Refuse("UNAVAILABLE: full"))
    asked = ask(stubs, server.url, "What?")
    assert (asked.returncode, asked.stderr) == (1, "UNAVAILABLE: full\n")


def test_the_client_has_it_compiled(stubs):
    file = Path(video_llava_client.__file__).with_name("inference.binpb")
    compiled = descriptor_pb2.FileDescriptorSet.FromString((stubs / "set.pb").read_bytes()).file[0]
    assert descriptor_pb2.FileDescriptorProto.FromString(file.read_bytes()) == compiled, f"make {file}"


def test_its_protocol_is_tritons(stubs):
    ours = descriptor_pb2.FileDescriptorSet.FromString((stubs / "set.pb").read_bytes()).file[0]
    tritons = descriptor_pb2.FileDescriptorProto()
    import_module("tritonclient.grpc.service_pb2").DESCRIPTOR.CopyToProto(tritons)
    configuration = descriptor_pb2.FileDescriptorProto()
    import_module("tritonclient.grpc.model_config_pb2").DESCRIPTOR.CopyToProto(configuration)
    tritons.message_type.extend(configuration.message_type)
    assert ours.package == tritons.package == configuration.package
    theirs = _fields(tritons.message_type)
    assert _fields(ours.message_type).items() <= theirs.items()
    methods = {m.name: m for m in tritons.service[0].method}
    for method in ours.service[0].method:
        assert str(method) == str(methods[method.name])


def _fields(messages, prefix=""):
    """Return {message.field: (number, type, label, type name)} of messages and those inside them."""
    fields = {}
    for message in messages:
        name = f"{prefix}{message.name}"
        fields |= {f"{name}.{f.name}": (f.number, f.type, f.label, f.type_name) for f in message.field}
        fields |= _fields(message.nested_type, f"{name}.")
    return fields
