#!/usr/bin/env bash
# JAX 0.10.1 (Python 3.11) and 0.12.0.1 (newer): what the first call of a compiled function raises as a JaxRuntimeError,
#   later calls raise as a ValueError.
#
# Expected: jax.errors.JaxRuntimeError is documented as the error of the runtime, and a lack of memory is one whenever it
#   comes. Programs catch it to divide a batch, to end with a message, or to start again.
# Observed: the first call, which goes through Python, raises JaxRuntimeError. Later calls take the path in C++, and the
#   same lack of memory, with the same text, is a plain ValueError, as is the loss of another process in a collective of
#   several processes ("UNKNOWN: Gloo all-reduce failed"). So a handler that was tried at the first step works, and never
#   again; in a training almost all calls are later ones.
# Why it matters: an except clause for JaxRuntimeError or RuntimeError lets it through, and one for ValueError, meant for
#   bad input, swallows it. Look at the text, which begins with the name of a status, and take both types.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
release=$("$folder/venv/bin/python" -c 'import sys; print("0.10.1" if sys.version_info < (3, 12) else "0.12.0.1")')
"$folder/venv/bin/pip" --disable-pip-version-check install -q "jax==$release"
cat > "$folder/program.py" <<'PY'
import resource

import jax
import jax.numpy as jnp

SIZE = 1 << 28  # float32: 1 GiB


def raised(function) -> tuple[str, str]:
    try:
        jax.block_until_ready(function(jnp.float32(2)))
    except (RuntimeError, ValueError) as error:
        return type(error).__name__, str(error).partition(":")[0]
    raise SystemExit("nothing was raised")


called = jax.jit(lambda value: jnp.ones(SIZE, jnp.float32) * value)
jax.block_until_ready(called(jnp.float32(2)))
new = jax.jit(lambda value: jnp.ones(SIZE, jnp.float32) * value + 1)
pages = int(open("/proc/self/statm").read().split()[0])
limit = pages * resource.getpagesize() + SIZE  # a quarter of what the functions need
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
later, first = raised(called), raised(new)
print(f"jax {jax.__version__}: a first call raises {first}, a later one {later}")
assert first == ("JaxRuntimeError", "RESOURCE_EXHAUSTED"), first
assert later == ("ValueError", "RESOURCE_EXHAUSTED"), later
PY
JAX_PLATFORMS=cpu "$folder/venv/bin/python" "$folder/program.py"
