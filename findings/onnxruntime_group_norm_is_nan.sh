#!/usr/bin/env bash
# onnxruntime 1.32.0 on CPUs: GroupNormalization of values near 3,000 is NaN, InstanceNormalization of them is right.
#
# Expected: normalizing takes the mean away, so values around 3,000 with a standard deviation of 1 give the same as
#   values around 0. LayerNormalization, InstanceNormalization and MeanVarianceNormalization of onnxruntime do so, and
#   GroupNormalization with as many groups as channels is by its definition InstanceNormalization.
# Observed: around 2,000 the standard deviation of the result is 1.08, and from 3,000 on it is NaN. The variance is
#   the mean of the squares less the square of the mean, in float32, which loses all digits and may be negative. With
#   fewer groups there may be numbers in the hundreds in place of the NaN. No error and no warning.
# Why it matters: a norm is what makes large activations harmless, and transformers are known for a few large ones.
#   The exported model is right on small inputs, such as those of a test, and wrong on some of the real ones.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" --disable-pip-version-check install -q onnxruntime==1.32.0 onnx==1.22.0 numpy==2.4.6
"$folder/venv/bin/python" - <<'PY'
import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper

print("onnxruntime", onnxruntime.__version__, "onnx", onnx.__version__, "numpy", np.__version__)
onnxruntime.set_default_logger_severity(3)
CHANNELS = 32
OPERATORS = {"GroupNormalization": {"num_groups": CHANNELS}, "InstanceNormalization": {}}


def normalized(operator: str, values: np.ndarray, **attributes: int) -> np.ndarray:
    """The output of a model of one operator, with the scale 1 and the bias 0."""
    inputs = {"values": values, "scale": np.ones(CHANNELS, np.float32), "bias": np.zeros(CHANNELS, np.float32)}
    infos = [helper.make_tensor_value_info(name, TensorProto.FLOAT, array.shape) for name, array in inputs.items()]
    output = helper.make_tensor_value_info("output", TensorProto.FLOAT, values.shape)
    node = helper.make_node(operator, list(inputs), ["output"], epsilon=1e-5, **attributes)
    graph = helper.make_graph([node], "graph", infos, [output])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=9)
    onnx.checker.check_model(model)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, inputs)[0]


noise = np.random.default_rng(0).normal(size=(1, CHANNELS, 512)).astype(np.float32)
found = {}
for mean in (0, 100, 1_000, 2_000, 3_000, 4_096):
    values = noise + np.float32(mean)
    group, instance = (
        float(normalized(operator, values, **attributes).std())
        for operator, attributes in OPERATORS.items()
    )
    print(f"N({mean}, 1): standard deviation {group:.3f} after GroupNormalization, {instance:.3f} after Instance...")
    assert abs(instance - 1) < 1e-3
    found[mean] = group
assert abs(found[0] - 1) < 1e-3
assert not found[3_000] < 1.5 and np.isnan(found[4_096]), "the behavior has changed"
PY
