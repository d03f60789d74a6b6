#!/usr/bin/env bash
# JAX 0.10.1: jax_enable_compilation_cache is read at the first compilation only; later updates do nothing.
#
# Expected: jax.config.update("jax_enable_compilation_cache", False) turns the persistent cache off, as the documentation
#   says of the option, and True turns it on. config.jax_enable_compilation_cache shows the new value.
# Observed: whether the cache is used is decided when the process compiles for the first time, be it a one-line program
#   of a library, and remembered. After that False still writes new entries, and True does not.
#   compilation_cache.reset_cache(), of jax.experimental, forgets the decision.
# Why it matters: programs of several processes decide about the cache when they know their number, hence after
#   jax.distributed.initialize and a first barrier, which compiles. A process that turns the cache off there goes on with
#   programs that others have put into it.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
release=$("$folder/venv/bin/python" -c 'import sys; print("0.10.1" if sys.version_info < (3, 12) else "0.12.0.1")')
"$folder/venv/bin/pip" --disable-pip-version-check install -q "jax==$release"
cat > "$folder/program.py" <<'PY'
import sys
from pathlib import Path

import jax
from jax.experimental.compilation_cache import compilation_cache

folder, first, then, resets = Path(sys.argv[1]), *(word == "True" for word in sys.argv[2:])
folder.mkdir()
jax.config.update("jax_compilation_cache_dir", str(folder))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


def written(n: int) -> int:
    """How many entries a new program leaves."""
    before = len(list(folder.glob("*-cache")))
    jax.jit(lambda x: x * n + 1)(1.0)
    return len(list(folder.glob("*-cache"))) - before


jax.config.update("jax_enable_compilation_cache", first)
before = written(2)
jax.config.update("jax_enable_compilation_cache", then)
if resets:
    compilation_cache.reset_cache()
after = written(3)
print(f"jax {jax.__version__}: {first} first: {before > 0}; then {jax.config.jax_enable_compilation_cache}", end="")
print(f"{', reset' if resets else ''}: {after > 0}")
assert (before > 0, after > 0) == (first, then if resets else first), "the behavior has changed"
PY
number=0
for case in "True False False" "False True False" "True False True" "False True True"; do
  number=$((number + 1))
  # shellcheck disable=SC2086
  JAX_PLATFORMS=cpu "$folder/venv/bin/python" "$folder/program.py" "$folder/cache$number" $case
done
