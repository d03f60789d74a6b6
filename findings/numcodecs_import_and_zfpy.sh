#!/usr/bin/env bash
# numcodecs 0.16.6: with zfpy 1.0.1.post0, the newest one, `import numcodecs` raises ValueError, and so do `import zarr`
#   and all that read Zarr arrays, though none of them uses zfp.
#
# Expected: an optional compressor that cannot be used is left out; `numcodecs[zfpy]` installs it.
# Observed: the version is split at its points and each part is read as an integer: "invalid literal for int() with base
#   10: 'post0'". ImportError alone is caught.
# Why it matters: installing a compressor for checkpoints makes arrays and checkpoints in Zarr unreadable in the same
#   environment, with an error that names neither package.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
pip="$folder/venv/bin/pip --disable-pip-version-check install -q"
$pip numcodecs==0.16.6 zarr==3.1.6 numpy==2.4.6
"$folder/venv/bin/python" -c "import zarr; print('zarr', zarr.__version__, 'can be imported')"
$pip zfpy==1.0.1.post0
for module in numcodecs zarr; do
    if message=$("$folder/venv/bin/python" -c "import $module" 2>&1); then
        echo "the behavior has changed: $module can be imported" >&2
        exit 1
    fi
    echo "import $module: ${message##*$'\n'}"
    [[ ${message##*$'\n'} == "ValueError: invalid literal for int() with base 10: 'post0'" ]] || {
        echo "the behavior has changed" >&2
        exit 1
    }
done
