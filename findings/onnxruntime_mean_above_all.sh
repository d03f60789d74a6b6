#!/usr/bin/env bash
# onnxruntime 1.32.0 on CPUs: ReduceMean of 20 million times 11.0 is 11.39, larger than every value.
#
# Expected: a mean lies between the smallest and the largest value. NumPy's mean of the same float32 array is 11.0, as
#   it adds up in parts; so is onnxruntime's ReduceMean in float64.
# Observed: ReduceSum, ReduceMean and ReduceL2 add up float32 values in few numbers, each of which loses digits as it
#   grows. ReduceMean along the first axis of [5 million, 4] and GlobalAveragePool give 11.69; the same numbers as [4,
#   5 million] along the last axis are right. The result depends on the layout, and no warning is given.
# Why it matters: a model that pools over a long axis, or computes a mean loss over a whole data set, is exported and
#   compared with JAX on a few thousand values, where both agree.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" --disable-pip-version-check install -q onnxruntime==1.32.0 onnx==1.22.0 numpy==2.4.6
"$folder/venv/bin/python" - <<'PY'
import numpy as np
import onnx
import onnxruntime
from onnx import helper

print("onnxruntime", onnxruntime.__version__, "onnx", onnx.__version__, "numpy", np.__version__)
onnxruntime.set_default_logger_severity(3)


def result(operator: str, values: np.ndarray, axis: int | None = None) -> list[float]:
    """The output of a model of one operator."""
    inputs = {"values": values} | ({} if axis is None else {"axes": np.array([axis])})
    infos = [
        helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(array.dtype), array.shape)
        for name, array in inputs.items()
    ]
    output = helper.make_tensor_value_info("output", helper.np_dtype_to_tensor_dtype(values.dtype), None)
    graph = helper.make_graph([helper.make_node(operator, list(inputs), ["output"])], "graph", infos, [output])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, inputs)[0].ravel().tolist()


COUNT = 20_000_000
values = np.full(COUNT, 11, np.float32)
found = {
    "all": result("ReduceMean", values)[0],
    "sum / count": result("ReduceSum", values)[0] / COUNT,
    "[5 million, 4], axis 0": max(result("ReduceMean", values.reshape(-1, 4), 0)),
    "GlobalAveragePool": result("GlobalAveragePool", values.reshape(1, 1, -1))[0],
}
right = {
    "[4, 5 million], axis 1": max(result("ReduceMean", values.reshape(4, -1), 1)),
    "float64": result("ReduceMean", values.astype(np.float64))[0],
    "NumPy": float(values.mean()),
}
for name, number in (found | right).items():
    print(f"{name}: {number:.6f}")
assert all(abs(number - 11) < 1e-3 for number in right.values())
assert all(number > 11.2 for number in found.values()), "the behavior has changed"
PY
