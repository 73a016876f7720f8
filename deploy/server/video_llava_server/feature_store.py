"""The model `feature_store`: keeps the features of media in shared memory and gives a reference for them.

A video of the 7B has 16.8 MB of features. Only the reference travels on: into Triton's response cache, to the language
model and to its engine, which maps the memory and reads it only where its prefix cache has not got the video.

Whatever comes here is kept, the oldest goes first. The response cache may hold a reference for longer than this model
holds the features; `known_frames.py` says how that is avoided.
"""

import os
from typing import Any

from . import triton
from .features import DEFAULT_MEGABYTES, MEGABYTES_VARIABLE, FeatureStore
from .runtime_folder import RuntimeFolder
from .tensors import strings

BYTES = "video_llava:feature_store_bytes"


class TritonPythonModel:
    """What Triton's Python backend calls, from one thread."""

    def initialize(self, args: dict[str, str]) -> None:
        """Make an empty store."""
        self._folder = RuntimeFolder.find(os.environ)
        self._store = FeatureStore(int(os.environ.get(MEGABYTES_VARIABLE, DEFAULT_MEGABYTES)) << 20)
        self._metrics = triton.Metrics(args)
        self._metrics.declare(BYTES, "Features that are kept for further questions", triton.GAUGE)
        self._folder.write_window(self._store.window)
        triton.say_loaded(args)

    def execute(self, requests: list[Any]) -> list[Any]:
        """Give a reference for the features of each request; for those of no frames an empty text."""
        return [self._respond(request) for request in requests]

    def _respond(self, request: Any) -> Any:
        features = triton.input_tensors(request)["features"]
        # Without frames an encoder gives one row of zeros: Triton cannot cache an empty tensor.
        if not features.size or (len(features) == 1 and not features.any()):
            return triton.response({"reference": strings([""])})
        reference = self._store.put(features)
        self._folder.write_window(self._store.window)
        self._metrics.set(BYTES, level=self._store.num_bytes)
        return triton.response({"reference": strings([reference.seal(self._folder.read_key())])})

    def finalize(self) -> None:
        """Let go of Triton's metrics."""
        self._metrics.close()
