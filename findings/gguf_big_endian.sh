#!/usr/bin/env bash
# gguf 0.19.0: GGUFWriter writes a big-endian file with F16 and F32 in one byte order and BF16 and Q8_0 in the other.
#
# Expected: GGUFWriter(endianess=BIG) gives the file that the package's own gguf-convert-endian makes of the
#   little-endian one, and quants.dequantize, given the data and type that GGUFReader has for a tensor, returns the
#   tensor in both.
# Observed: the writer swaps arrays by their NumPy type. BF16 and quantized tensors are arrays of bytes to it, so they
#   stay little-endian, where gguf-convert-endian swaps BF16 and the scales of Q8_0: 1.0 is 80 3f instead of 3f 80. The
#   reader gives F32 as ">f4" with the right values, and dequantize views those bytes in the host's order: 1.0 becomes
#   4.6e-41. Neither raises.
# Why it matters: such files are for machines like s390x. A GPT-2 exported for them in BF16 or Q8_0 by the library has
#   wrong weights there, and a check of the export by dequantize finds the right tensors wrong and the wrong ones right.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" --disable-pip-version-check install -q gguf==0.19.0 numpy==2.4.6
cat > "$folder/write.py" <<'PY'
import sys

import numpy as np
from gguf import GGMLQuantizationType, GGUFEndian, GGUFWriter
from gguf.quants import quantize

for endian in GGUFEndian:
    writer = GGUFWriter(f"{sys.argv[1]}/{endian.name}.gguf", "gpt2", endianess=endian)
    for name in ("F32", "F16", "BF16", "Q8_0"):
        kind = GGMLQuantizationType[name]
        writer.add_tensor(name, quantize(np.ones((2, 32), np.float32), kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
PY
cat > "$folder/read.py" <<'PY'
import sys
from importlib.metadata import version

from gguf import GGUFReader
from gguf.quants import dequantize

print("gguf", version("gguf"), "numpy", version("numpy"), "on a", sys.byteorder, "endian machine")
found, values = {}, {}
for file in ("LITTLE", "BIG", "CONVERTED"):
    for tensor in GGUFReader(f"{sys.argv[1]}/{file}.gguf").tensors:
        name = tensor.name
        found[file, name] = tensor.data.tobytes()[: 4 if name == "F32" else 2].hex(" ")
        values[file, name] = float(dequantize(tensor.data, tensor.tensor_type).ravel()[0])
        print(f"{file} {name}: bytes {found[file, name]}, dtype {tensor.data.dtype}, dequantized {values[file, name]}")
names = [name for file, name in found if file == "BIG"]
unlike = [name for name in names if found["BIG", name] != found["CONVERTED", name]]
assert unlike == ["BF16", "Q8_0"], "the behavior has changed"
wrong = [place for place, value in values.items() if place[0] != "CONVERTED" and abs(value - 1) > 0.01]
assert wrong == [("BIG", "F32"), ("BIG", "F16")], "the behavior has changed"
PY
"$folder/venv/bin/python" "$folder/write.py" "$folder"
cp "$folder/LITTLE.gguf" "$folder/CONVERTED.gguf"
"$folder/venv/bin/gguf-convert-endian" "$folder/CONVERTED.gguf" big <<< YES > /dev/null 2>&1
"$folder/venv/bin/python" -W ignore "$folder/read.py" "$folder"
