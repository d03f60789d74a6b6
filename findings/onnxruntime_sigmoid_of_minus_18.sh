#!/usr/bin/env bash
# onnxruntime 1.32.0 on CPUs: Sigmoid(-20) is 0 and its logarithm -inf, in float32; from -14 on the digits are wrong.
#
# Expected: Sigmoid is 1 / (1 + exp(-x)), says the operator. float32 holds 2e-9, the value at -20, with 7 digits, as NumPy
#   and PyTorch give it, and Exp and Softplus of onnxruntime as well. Log(Sigmoid(x)) is x for large negative x.
# Observed: it is 0.5 plus a fraction of polynomials, with x cut at -18 and 18. So results are multiples of 3e-8, with an
#   error of 7 % at -14, 47 % at -16 and over 100 % at -17, not even in order, and 0 from -18 on (on ARM below 0,
#   microsoft/onnxruntime#22557). No level of optimization changes it, and the documentation has no word on it.
#   Positive x and double precision are right.
# Why it matters: reward models, DPO losses, filters of quality and heads over large vocabularies take the logarithm of a
#   sigmoid or compare small probabilities. A model checked with a tolerance of 1e-5 passes, and ranks rare classes in
#   another order than the model it was exported from. Write -Softplus(-x) for the logarithm.
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

print("onnxruntime", onnxruntime.__version__, "onnx", onnx.__version__)
onnxruntime.set_default_logger_severity(3)
LEVELS = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL, onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL


def run(operators: list[str], values: np.ndarray) -> np.ndarray:
    """The values after these operators."""
    kind = {"float32": TensorProto.FLOAT, "float64": TensorProto.DOUBLE}[values.dtype.name]
    names = [f"value{i}" for i in range(len(operators) + 1)]
    nodes = [helper.make_node(operator, [names[i]], [names[i + 1]]) for i, operator in enumerate(operators)]
    ends = [helper.make_tensor_value_info(name, kind, list(values.shape)) for name in (names[0], names[-1])]
    model = helper.make_model(
        helper.make_graph(nodes, "graph", ends[:1], ends[1:]), opset_imports=[helper.make_opsetid("", 22)], ir_version=10
    )
    results = []
    for level in LEVELS:
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = level
        session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        results.append(session.run(None, {names[0]: values})[0])
    assert np.array_equal(*results)
    return results[0]


values = np.array([-10, -14, -15, -16, -16.5, -17, -18, -20, -30], np.float32)
right = 1 / (1 + np.exp(-values.astype(np.float64)))
found, logarithms = run(["Sigmoid"], values), run(["Sigmoid", "Log"], values)
for each in zip(values, found, right, logarithms, strict=True):
    print("Sigmoid({:g}) = {:.3e}, right {:.3e}; its Log {:.3f}".format(*each))
dense = np.arange(-17.9, -14, 0.01, dtype=np.float32)
errors = np.abs(run(["Sigmoid"], dense) * (1 + np.exp(-dense.astype(np.float64))) - 1)
print(f"largest error between -17.9 and -14: {errors.max():.0%}, falls where it should rise: "
      f"{(np.diff(run(['Sigmoid'], dense)) < 0).sum()} of {len(dense) - 1} steps")
assert (found[values <= -18] <= 0).all(), "the behavior has changed"
assert not np.isfinite(logarithms[values <= -18]).any(), "the behavior has changed"
assert errors.max() > 0.3, "the behavior has changed"
assert np.allclose(1 / (1 + np.exp(-values)), right, rtol=1e-5)
assert np.allclose(run(["Sigmoid"], values.astype(np.float64)), right, rtol=1e-9)
softplus = run(["Softplus"], values)
print("Softplus:", softplus.tolist())
assert np.allclose(softplus, np.log1p(np.exp(values.astype(np.float64))), rtol=1e-5)
PY
