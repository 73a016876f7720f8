"""The model repository that Triton loads: code and configurations of this release, weights by reference.

It is small and made anew at each start of a server, so code and weights are upgraded and rolled back independently.
"""

import json
import re
import secrets
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .limits import read_limits
from .lora import LoraAdapter, room_bytes, write_loras
from .manifest import ENCODERS, LANGUAGE_MODEL, NAME, Manifest, ModelFolderError

# A tensor of features in a config.pbtxt.
_FEATURES_TYPE = re.compile(r'(name: "(?:\w+_)?features", *data_type: )TYPE_FP32')
_KV_CACHE = "kv_cache_memory_bytes"
# Of references to features (model_repository/video_features): far more of them than there are features.
_CACHE_BYTES = 16 << 20
_IGNORED = shutil.ignore_patterns("__pycache__", ".gitkeep", "README.md")

UNLOAD_SECONDS = 60
"""From SIGTERM, which follows the drain, until every model is unloaded. When it passes, Triton exits with code 1."""

ADMIN_HEADER = "video-llava-admin"
"""For gRPC it follows `triton-grpc-protocol-`."""
CALLER_HEADER = "x-video-llava-caller"
"""Who asks, as a gateway says: for the request log. Triton passes it on as a parameter of the request."""
# What callers have no use for, and could read or change others' requests by. Loading models is off altogether.
_CLOSED = "model-repository,shared-memory,logging,trace"


def assemble(
    model: Path,
    into: Path,
    *,
    overlay: Path | None = None,
    plans: Path | None = None,
    loras: Mapping[str, Path] | None = None,
    engine_arguments: Mapping[str, Any] | None = None,
) -> None:
    """Write the repository of the model folder `model` into the folder `into`, which must be new or empty.

    Files of `overlay` replace this release's. `plans` is a folder of TensorRT plans, which take the place of the ONNX
    graphs. `loras` are folders of LoRA adapters by name. `engine_arguments` (vLLM's AsyncEngineArgs) win over those
    that the export was told.
    Raises ModelFolderError.
    """
    model, engine_arguments = model.resolve(), engine_arguments or {}
    manifest = Manifest.read(model)
    manifest.check_sizes(model)
    for option, folder in (("overlay", overlay), ("plans", plans)):
        if folder is not None and not folder.is_dir():
            raise ModelFolderError(f"--{option} {folder} is no folder")
    adapters = [LoraAdapter.open(name, folder, model / LANGUAGE_MODEL) for name, folder in (loras or {}).items()]
    if into.exists() and any(into.iterdir()):
        raise ModelFolderError(f"{into} is not empty; name a new folder for the repository")
    for source in (_release(), overlay):
        if source is not None:
            shutil.copytree(source, into, dirs_exist_ok=True, ignore=_IGNORED)
    if manifest.features_dtype != "float32":
        _set_features_type(into)
    (into / NAME).symlink_to(model / NAME)
    for encoder in ("video_encoder", "image_encoder"):
        (into / encoder / "1").symlink_to((plans or model / ENCODERS).resolve())
    # Triton asks for a version folder, though an ensemble has nothing in it.
    for ensemble in ("video_llava", "video_features", "image_features"):
        (into / ensemble / "1").mkdir(exist_ok=True)
    path = into / "vicuna" / "1" / "model.json"
    arguments = json.loads(path.read_text(encoding="utf-8")) | {
        **manifest.engine_arguments,
        **write_loras(adapters, path.parent),
        **engine_arguments,
        "model": str(model / LANGUAGE_MODEL),
    }
    # The profile of GPUs has shared their memory out, without adapters.
    of_profile = manifest.engine_arguments.keys() if manifest.profile else set()
    if {_KV_CACHE, "gpu_memory_utilization"} <= of_profile and _KV_CACHE not in engine_arguments:
        arguments[_KV_CACHE] -= room_bytes(model / LANGUAGE_MODEL, arguments)
    path.write_text(json.dumps(arguments, indent=2) + "\n", encoding="utf-8")
    _publish_limits(into)


def _publish_limits(repository: Path) -> None:
    """Add the limits to the configuration of `intake`, which any client may read."""
    text = json.dumps(read_limits(repository).to_json())
    with (repository / "intake" / "config.pbtxt").open("a", encoding="utf-8") as file:
        file.write(f'\nparameters {{ key: "limits" value {{ string_value: {text} }} }}\n')


def _set_features_type(repository: Path) -> None:
    """Write TYPE_FP16 as the type of the encoders' features into the configurations, which say FP32."""
    for path in repository.glob("**/*.pbtxt"):
        text = path.read_text(encoding="utf-8")
        path.write_text(_FEATURES_TYPE.sub(r"\1TYPE_FP16", text), encoding="utf-8")


def _release() -> Path:
    """Configurations and adapters of this release: in the package once installed, at the root of a checkout."""
    installed = Path(__file__).parent / "model_repository"
    return installed if installed.is_dir() else Path(__file__).resolve().parents[3] / "model_repository"


def new_admin_key() -> str:
    """Make a random key."""
    return secrets.token_urlsafe(24)


def common_flags(repository: Path, *, admin_key: str, has_cache: bool = True, model_config_name: str = "") -> list[str]:
    """Return tritonserver's flags that are the same wherever it runs.

    `admin_key` opens what is closed to callers. Without `has_cache` every request's frames are encoded.
    `model_config_name` chooses `configs/NAME.pbtxt` of the models that have it, for GPUs.
    """
    cache = [f"--cache-config=local,size={_CACHE_BYTES}"] if has_cache else []
    # No memory of Triton's own on the GPU, so an encoder there writes its features to host memory, where feature_store
    # reads them.
    on_gpu = [f"--model-config-name={model_config_name}", "--cuda-memory-pool-byte-size=0:0"]
    return [
        f"--model-repository={repository}",
        # One model that fails must end the start; the repository never changes while it is served.
        "--model-control-mode=none",
        "--exit-on-error=true",
        "--strict-readiness=true",
        f"--exit-timeout-secs={UNLOAD_SECONDS}",
        *cache,
        *(on_gpu if model_config_name else []),
        "--allow-sagemaker=false",
        "--allow-vertex-ai=false",
        # Shared memory of each Python model: what it starts with, and the steps in which it grows to its largest
        # request. Both small, because it never shrinks and a container's /dev/shm is often 64 MB.
        f"--backend-config=python,shm-default-byte-size={1 << 20}",
        f"--backend-config=python,shm-growth-byte-size={1 << 20}",
        f"--grpc-restricted-protocol={_CLOSED}:{ADMIN_HEADER}={admin_key}",
        f"--http-restricted-api={_CLOSED}:{ADMIN_HEADER}={admin_key}",
        f"--grpc-header-forward-pattern={CALLER_HEADER}",
        f"--http-header-forward-pattern={CALLER_HEADER}",
    ]
