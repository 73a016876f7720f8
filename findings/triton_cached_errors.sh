#!/usr/bin/env bash
# Triton: the response cache keeps a model's error, and gives it to the next caller as a success without outputs.
#
# Expected: what failed is not cached; the same request asked again runs the model again. An ensemble around the model, with
# the cache in the ensemble's configuration, does so.
#
# Version: tritonserver 24.10 (2.51) of nvidia-pytriton 0.7.0, tritonclient 2.73.0, Python 3.11, Linux x86-64. The sources of
# July 2026 (DynamicBatchScheduler::DelegateResponse) still insert each response without a look at its status.
# Seen: the model fails once; from then on each equal request ends with OK and no output, though the model works again.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cat > "$folder/model.py" <<'PYTHON'
import os

import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def execute(self, requests):
        return [self.answer(request) for request in requests]

    def answer(self, request):
        if os.path.exists(os.environ["BUSY"]):
            return pb_utils.InferenceResponse(error=pb_utils.TritonError("busy"))
        number = pb_utils.get_input_tensor_by_name(request, "number").as_numpy()
        return pb_utils.InferenceResponse([pb_utils.Tensor("next", number + 1)])
PYTHON
cat > "$folder/probe.py" <<'PYTHON'
import importlib.util
import os
import shutil
import socket
import subprocess
import sys
import sysconfig
import time
from pathlib import Path

import numpy as np
import tritonclient.grpc as grpcclient

folder = Path(sys.argv[1])
package = Path(importlib.util.find_spec("pytriton").origin).parent
triton = package / "tritonserver"
backend = folder / "backends" / "python"
backend.mkdir(parents=True)
for part in ("libtriton_python.so", "triton_python_backend_utils.py"):
    shutil.copy(triton / "backends" / "python" / part, backend)
shutil.copy(triton / "python_backend_stubs" / "3.11" / "triton_python_backend_stub", backend)
TENSORS = """
input [ { name: "number" data_type: TYPE_INT32 dims: [ 1 ] } ]
output [ { name: "next" data_type: TYPE_INT32 dims: [ 1 ] } ]
"""
CACHE = "response_cache { enable: true }"
STEP = """platform: "ensemble" ensemble_scheduling { step [ { model_name: "plain" model_version: -1
  input_map { key: "number" value: "number" } output_map { key: "next" value: "next" } } ] }"""
for name, content in (
    ("cached_model", f'backend: "python" {CACHE}'),
    ("plain", 'backend: "python"'),
    ("cached_ensemble", f"{STEP} {CACHE}"),
):
    (folder / "models" / name / "1").mkdir(parents=True)
    (folder / "models" / name / "config.pbtxt").write_text(content + TENSORS)
    shutil.copy(folder / "model.py", folder / "models" / name / "1")
busy = folder / "busy"
with socket.socket() as free:
    free.bind(("127.0.0.1", 0))
    port = free.getsockname()[1]
libraries = [package.parent / "nvidia_pytriton.libs", sysconfig.get_config_var("LIBDIR")]
environment = os.environ | {
    "BUSY": str(busy),
    "LD_LIBRARY_PATH": ":".join(map(str, libraries)),
    "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
}
command = [triton / "bin" / "tritonserver", f"--model-repository={folder / 'models'}", f"--grpc-port={port}"]
command += [f"--backend-directory={backend.parent}", f"--cache-directory={triton / 'caches'}"]
command += ["--grpc-address=127.0.0.1", "--allow-http=false", "--allow-metrics=false", "--cache-config=local,size=1048576"]
with (folder / "log").open("w") as log:
    server = subprocess.Popen(command, env=environment, stdout=log, stderr=log)


def is_ready() -> bool:
    try:
        return client.is_server_ready()
    except grpcclient.InferenceServerException:
        return False


def ask(model: str) -> str:
    tensor = grpcclient.InferInput("number", [1], "INT32")
    tensor.set_data_from_numpy(np.array([7], np.int32))
    try:
        answer = client.infer(model, [tensor], client_timeout=30).as_numpy("next")
    except grpcclient.InferenceServerException as exc:
        return "busy" if "busy" in str(exc) else str(exc)
    return "no output" if answer is None else str(answer.item())


try:
    client = grpcclient.InferenceServerClient(f"127.0.0.1:{port}")
    until = time.monotonic() + 120
    while not is_ready():
        assert server.poll() is None and time.monotonic() < until, (folder / "log").read_text()
        time.sleep(0.2)
    for model in ("cached_model", "cached_ensemble"):
        busy.touch()
        first = ask(model)
        busy.unlink()
        print(model, first, ask(model), ask(model), sep=", ")
finally:
    server.terminate()
    server.wait(60)
PYTHON
python3.11 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet nvidia-pytriton==0.7.0 'tritonclient[grpc]==2.73.0' 'numpy<2' 2> /dev/null
"$folder/venv/bin/python" "$folder/probe.py" "$folder" | tee "$folder/seen"
diff "$folder/seen" - <<'SEEN'
cached_model, busy, no output, no output
cached_ensemble, busy, 8, 8
SEEN
echo "as described"
