#!/usr/bin/env bash
# ONNX Runtime: which links to a model with external weights load depends on the release. Only a linked folder loads in all.
#
# Model stores, volumes and caches often hand out files as symbolic links. A graph with external data names its weights by
# a path relative to itself. Expected: a link to the graph, to its weights or to the folder of both opens like the files.
#
# Versions: onnxruntime 1.20.1, 1.24.1, 1.27.0, 1.32.0 with onnx 1.17.0, Python 3.11, Linux x86-64. Seen:
#
#                               1.20.1   1.24.1   1.27.0   1.32.0
#   folder is a link            loads    loads    loads    loads
#   graph and weights are links loads    refused  loads    loads
#   weights alone are a link    loads    refused  refused  refused
#   graph alone is a link       refused  refused  refused  refused
#
# "refused" is "External data path validation failed …" since 1.24, "No such file" before (graph alone).
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cat > "$folder/probe.py" <<'PYTHON'
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper

onnxruntime.set_default_logger_severity(4)
root = Path(sys.argv[1])


def write_model(into: Path) -> None:
    into.mkdir(parents=True)
    values = np.arange(4, dtype=np.float32).tobytes()
    weights = helper.make_tensor("w", TensorProto.FLOAT, [4], values, raw=True)
    onnx.external_data_helper.set_external_data(weights, "w.bin")
    weights.ClearField("raw_data")
    (into / "w.bin").write_bytes(values)
    tensors = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [4]) for name in "xy"]
    graph = helper.make_graph([helper.make_node("Add", ["x", "w"], ["y"])], "g", tensors[:1], tensors[1:], [weights])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    (into / "m.onnx").write_bytes(model.SerializeToString())


def opens(path: Path) -> str:
    try:
        onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    except Exception:
        return "refused"
    return "loads"


store = root / "store"
write_model(store)
(root / "folder").symlink_to(store)
for name in ("both", "weights", "graph"):
    (root / name).mkdir()
for link in ("both/m.onnx", "both/w.bin", "weights/w.bin", "graph/m.onnx"):
    (root / link).symlink_to(store / Path(link).name)
(root / "weights/m.onnx").write_bytes((store / "m.onnx").read_bytes())
print(onnxruntime.__version__, *(opens(root / name / "m.onnx") for name in ("folder", "both", "weights", "graph")))
PYTHON
python3.11 -m venv "$folder/venv"
for version in 1.20.1 1.24.1 1.27.0 1.32.0; do
  "$folder/venv/bin/pip" install --quiet "onnxruntime==$version" onnx==1.17.0 'numpy<2.3' 2> /dev/null
  mkdir "$folder/$version"
  "$folder/venv/bin/python" "$folder/probe.py" "$folder/$version" 2> /dev/null
done | tee "$folder/seen"
diff "$folder/seen" - <<'SEEN'
1.20.1 loads loads loads refused
1.24.1 loads refused refused refused
1.27.0 loads loads refused refused
1.32.0 loads loads refused refused
SEEN
echo "as described"
