#!/bin/bash
# onnx 1.23.2 refuses external weights that have a second name (a hard link); ONNX Runtime 1.32.0 loads them.
#
# Expected: a file is the same file however many names it has, and both packages load the model.
# Real:     onnx.load and onnx.checker.check_model raise ValidationError, "it has multiple hard links, indicating a
#           potential hardlink attack"; onnxruntime.InferenceSession runs the model.
# So what:  weights of a graph must not be shared between folders by hard links. `video-llava-export convert` copies them.
#
# Prints what it saw; exit code 1 if any of it has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet onnx==1.23.2 onnxruntime==1.32.0
cd "$folder"
venv/bin/python - <<'END'
import os
import sys

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

weights = numpy_helper.from_array(np.ones((64, 64), np.float32), "w")
ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 64]) for name in "xy"]
graph = helper.make_graph([helper.make_node("MatMul", ["x", "w"], ["y"])], "graph", ends[:1], ends[1:], [weights])
model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
onnx.save_model(model, "model.onnx", save_as_external_data=True, location="model.data", size_threshold=0)


def run():
    (y,) = onnxruntime.InferenceSession("model.onnx").run(None, {"x": np.ones((1, 64), np.float32)})
    assert (y == 64).all()


calls = {
    "onnx.load": lambda: onnx.load("model.onnx"),
    "check_model": lambda: onnx.checker.check_model("model.onnx"),
    "InferenceSession": run,
}


def outcomes():
    found = {}
    for name, call in calls.items():
        try:
            call()
            found[name] = "loads it"
        except onnx.checker.ValidationError as exc:
            found[name] = "refuses hard links" if "multiple hard links" in str(exc) else str(exc)
    return found


one = outcomes()
os.link("model.data", "other.data")
two = outcomes()
print("onnx", onnx.__version__, "onnxruntime", onnxruntime.__version__)
print("one name: ", one)
print("two names:", two)
expected = {"onnx.load": "refuses hard links", "check_model": "refuses hard links", "InferenceSession": "loads it"}
sys.exit(0 if one == dict.fromkeys(calls, "loads it") and two == expected else 1)
END
