#!/usr/bin/env bash
# ONNX Runtime: ONNX's own Attention refuses a batch of 0, where the same attention in single operators gives an empty tensor.
#
# An operator over a batch usually passes an empty one through, so graphs with a dynamic batch need no branch for it.
# Expected: a batch of 0 gives a tensor of shape (0, 4, 8), as MatMul, Softmax, MatMul does. The specification of Attention
# names no smallest batch.
#
# Versions: onnxruntime 1.23.2, 1.27.0, 1.32.0 with onnx 1.19.1, Python 3.11, Linux x86-64, CPU provider. Seen in each:
# Attention fails with "Batch size must be greater than 0"; the single operators give (0, 4, 8).
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cat > "$folder/probe.py" <<'PYTHON'
import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper

onnxruntime.set_default_logger_severity(4)
GRAPHS = {
    "single operators": [
        helper.make_node("Transpose", ["k"], ["kt"], perm=[0, 2, 1]),
        helper.make_node("MatMul", ["q", "kt"], ["scores"]),
        helper.make_node("Softmax", ["scores"], ["weights"]),
        helper.make_node("MatMul", ["weights", "v"], ["y"]),
    ],
    "Attention": [helper.make_node("Attention", ["q", "k", "v"], ["y"], q_num_heads=2, kv_num_heads=2)],
}
tensors = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 4, 8]) for name in "qkvy"]
opsets = [helper.make_opsetid("", 23)]


def shape_of(session: onnxruntime.InferenceSession, batch: int) -> str:
    empty = np.zeros((batch, 4, 8), np.float32)
    try:
        return str(session.run(None, dict.fromkeys("qkv", empty))[0].shape)
    except Exception as exc:
        assert "Batch size must be greater than 0" in str(exc), exc
        return "refused"


for name, nodes in GRAPHS.items():
    graph = helper.make_graph(nodes, "g", tensors[:3], tensors[3:])
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    onnx.checker.check_model(model)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    print(onnxruntime.__version__, name, *(shape_of(session, batch) for batch in (1, 0)))
PYTHON
python3.11 -m venv "$folder/venv"
for version in 1.23.2 1.27.0 1.32.0; do
  "$folder/venv/bin/pip" install --quiet "onnxruntime==$version" onnx==1.19.1 'numpy<2.3' 2> /dev/null
  "$folder/venv/bin/python" "$folder/probe.py" 2> /dev/null
done | tee "$folder/seen"
for version in 1.23.2 1.27.0 1.32.0; do
  echo "$version single operators (1, 4, 8) (0, 4, 8)"
  echo "$version Attention (1, 4, 8) refused"
done | diff "$folder/seen" -
echo "as described"
