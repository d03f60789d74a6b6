#!/usr/bin/env bash
# onnxruntime 1.32.0 on CPUs: ReduceMax of [NaN, 1, 3] is NaN, and of [1, NaN, 3] it is 3.
#
# Expected: one rule for NaN, wherever it stands. The operator Max of onnxruntime gives NaN for it, and so do NumPy,
#   JAX, PyTorch and the reference implementation in the package onnx.
# Observed: ReduceMax and ReduceMin give NaN only if it is the first of the values, and the largest or smallest of the
#   others else, even where values follow it. ArgMax of [1, NaN, 3] is 2, and of [NaN, 1, 3] it is 0.
# Why it matters: an exported model that takes the maximum, of logits or for the scale of a quantization, is checked
#   for NaN at its end. Whether it shows one depends on the place of the broken value.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" --disable-pip-version-check install -q onnxruntime==1.32.0 onnx==1.22.0 numpy==2.4.6
"$folder/venv/bin/python" - <<'PY'
import math

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator

print("onnxruntime", onnxruntime.__version__, "onnx", onnx.__version__, "numpy", np.__version__)
onnxruntime.set_default_logger_severity(3)


def results(operator: str, inputs: dict[str, np.ndarray], **attributes: int) -> list[list[float]]:
    """The output of a model of one operator, by onnxruntime and by onnx's reference implementation."""
    infos = [
        helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(array.dtype), array.shape)
        for name, array in inputs.items()
    ]
    kind = TensorProto.INT64 if operator.startswith("Arg") else TensorProto.FLOAT
    output = helper.make_tensor_value_info("output", kind, None)
    node = helper.make_node(operator, list(inputs), ["output"], **attributes)
    graph = helper.make_graph([node], "graph", infos, [output])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return [evaluator.run(None, inputs)[0].ravel().tolist() for evaluator in (session, ReferenceEvaluator(model))]


NAN = math.nan
for values, expected, index in (([NAN, 1, 3], NAN, 0), ([1, NAN, 3], 3, 2), ([1, 3, NAN], 3, 1)):
    array = np.array(values, np.float32)
    largest, of_onnx = results("ReduceMax", {"values": array})
    position, _ = results("ArgMax", {"values": array})
    pairs, _ = results("Max", {f"value_{i}": array[i : i + 1] for i in range(3)})
    print(f"{values}: ReduceMax {largest}, onnx {of_onnx}, Max of the three {pairs}, ArgMax {position}")
    assert math.isnan(of_onnx[0]) and math.isnan(pairs[0]) and math.isnan(np.max(array))
    assert np.array_equal(largest, [expected], equal_nan=True) and position == [index], "the behavior has changed"
PY
