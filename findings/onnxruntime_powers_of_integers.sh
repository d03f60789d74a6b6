#!/usr/bin/env bash
# onnxruntime 1.32.0 on CPUs: Pow(9007199254740993, 1) of int64 is 9007199254740992, and 3 ** 35 is off by 3.
#
# Expected: the power of an integer is exact where int64 holds it: the operator's result has the type of its base, and
#   int64 is one of its types. onnx's own reference evaluator, NumPy, PyTorch and JAX multiply integers.
# Observed: base and exponent are converted to double, and the power back to int64, so from 2**53 on results are
#   rounded, and Pow(x, 1) is not x. Pow(x, 2) and Pow(x, 3) are alike, although Mul(x, x) is exact. The documentation
#   does not say it, and no level of optimization changes it.
# Why it matters: hashes of n-grams and positions in mixed bases, inside of an exported tokenizer or embedding, are sums
#   of powers of integers modulo a prime. The exported model looks up other rows than the model it came from, for some
#   inputs only.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" --disable-pip-version-check install -q onnxruntime==1.32.0 onnx==1.23.2 numpy==2.4.6
"$folder/venv/bin/python" - <<'PY'
import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator

print("onnxruntime", onnxruntime.__version__, "onnx", onnx.__version__, "numpy", np.__version__)
onnxruntime.set_default_logger_severity(3)


def run(operator: str, left: np.ndarray, right: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The operator's result by onnxruntime, the same at each level of optimization, and by onnx's reference."""
    inputs = [helper.make_tensor_value_info(name, TensorProto.INT64, [None]) for name in ("left", "right")]
    output = helper.make_tensor_value_info("result", TensorProto.INT64, [None])
    graph = helper.make_graph([helper.make_node(operator, ["left", "right"], ["result"])], "graph", inputs, [output])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 22)], ir_version=10)
    feeds, results = {"left": left, "right": right}, []
    for level in ("ORT_DISABLE_ALL", "ORT_ENABLE_ALL"):
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, level)
        session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        results.append(session.run(None, feeds)[0])
    assert np.array_equal(*results)
    return results[0], ReferenceEvaluator(model).run(None, feeds)[0]


base = np.array([2**53 + 1, 94_906_267, 208_065, 3, 31, 3, 10])
exponent = np.array([1, 2, 3, 35, 12, 20, 6])
right = np.array([int(x) ** int(y) for x, y in zip(base, exponent, strict=True)])
found, reference = run("Pow", base, exponent)
for x, y, power, exact in zip(base, exponent, found, right, strict=True):
    print(f"Pow({x}, {y}) = {power}, exact {exact}, difference {power - exact}")
assert np.array_equal(reference, right) and right.dtype == found.dtype == np.int64
assert (found != right).tolist() == [True] * 5 + [False] * 2, "the behavior has changed"
product, _ = run("Mul", base[1:2], base[1:2])
assert product[0] == right[1]
PY
