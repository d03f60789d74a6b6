#!/usr/bin/env bash
# JAX 0.10.1 and 0.12.0.1: `import jax` opens and parses the METADATA of every installed distribution.
#
# Expected: an import costs the same whatever else is installed, as that of NumPy does; plugins are found by entry points
#   (`jax_plugins`), which importlib.metadata reads without parsing a METADATA file.
# Observed: JAX (jax/_src/numpy/array_constructors.py) looks for ROCm plugins by the Name of each distribution, on
#   CPUs and NVIDIA GPUs, too. Each METADATA is read whole, with the README that most packages put into it, and parsed
#   as an e-mail, once per process. 300 more packages with a README of 20 kB take 0.1 s of the 0.57 s of an import
#   (JAX 0.12.0.1 on Python 3.13: 0.27 of 0.77).
# Why it matters: test suites, launchers and data workers start hundreds of processes in environments of hundreds of
#   packages, on pods often from a network file system, where each file is a round trip. A small environment for
#   training helps; so does not importing jax in processes that need no device.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
release=$("$folder/venv/bin/python" -c 'import sys; print("0.10.1" if sys.version_info < (3, 12) else "0.12.0.1")')
"$folder/venv/bin/pip" --disable-pip-version-check install -q "jax==$release"

# 300 valid distributions without a module, such as metapackages.
"$folder/venv/bin/python" - <<'PY'
import sysconfig
from pathlib import Path

packages = Path(sysconfig.get_path("purelib"))
for i in range(300):
    info = packages / f"example_{i}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: example-{i}\nVersion: 1.0\n\n" + "A line of text.\n" * 1300)
    (info / "RECORD").write_text(f"{info.name}/METADATA,,\n{info.name}/RECORD,,\n")
PY

cat > "$folder/opened.py" <<'PY'
import importlib
import sys

opened = []
sys.addaudithook(lambda event, details: opened.append(str(details[0])) if event == "open" else None)
module = importlib.import_module(sys.argv[1])
print(module.__version__, sum(path.endswith("METADATA") and "example_" in path for path in opened))
PY
cat > "$folder/seconds.py" <<'PY'
import time

start = time.process_time()
import jax

print(time.process_time() - start)
PY
numpy=$("$folder/venv/bin/python" "$folder/opened.py" numpy)
jax=$(JAX_PLATFORMS=cpu "$folder/venv/bin/python" "$folder/opened.py" jax)
median() { for _ in 1 2 3 4 5; do "$folder/venv/bin/python" "$folder/seconds.py"; done | sort -n | sed -n 3p; }
with=$(median)
rm -r "$folder"/venv/lib/python3*/site-packages/example_*
without=$(median)
echo "import numpy: version and METADATA files opened, of 300: $numpy"
echo "import jax: version and METADATA files opened, of 300: $jax; $with s of processor time, $without s without them"
[ "${numpy##* }" = 0 ] && [ "$jax" = "$release 300" ] || { echo "the behavior has changed" >&2; exit 1; }
