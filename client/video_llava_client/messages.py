"""The message classes of Triton's protocol, from inference.binpb: the compiled form of the example's inference.proto.

In a pool of their own, since tritonclient registers the same names in the default one. protobuf makes the classes at
run time, so any of its versions will do.
"""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass

_POOL = DescriptorPool()
_POOL.AddSerializedFile(Path(__file__).with_name("inference.binpb").read_bytes())
_MESSAGES: Any = _POOL.FindFileByName("inference.proto").message_types_by_name

service: Any = _POOL.FindServiceByName("inference.GRPCInferenceService")
"""The service's descriptor, with its methods."""

messages: Any = SimpleNamespace(**{name: GetMessageClass(descriptor) for name, descriptor in _MESSAGES.items()})
"""The message classes, by name."""
