"""The message classes of Triton's protocol, from inference.binpb: the compiled form of the example's inference.proto.

In a pool of their own, since tritonclient registers the same names in the default one. protobuf makes the classes at
run time, so any of its versions will do.
"""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

from google.protobuf.descriptor_pb2 import FileDescriptorSet
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass

_FILE = FileDescriptorSet.FromString(Path(__file__).with_name("inference.binpb").read_bytes()).file[0]
_POOL = DescriptorPool()
_POOL.Add(_FILE)

service: Any = _POOL.FindServiceByName("inference.GRPCInferenceService")
"""The service's descriptor, with its methods."""

messages: Any = SimpleNamespace(
    **{
        message.name: GetMessageClass(_POOL.FindMessageTypeByName(f"inference.{message.name}"))
        for message in _FILE.message_type
    }
)
"""The message classes, by name."""
