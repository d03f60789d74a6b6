"""Runs third-party clients of the server in the environment that .ci/run creates for them."""

import os
import subprocess
from pathlib import Path

import pytest
from conftest import ROOT

CLIENTS = Path(os.environ.get("GPT2_CLIENTS", ROOT / ".venv" / "clients"))
# Disables downloads of version information, prices, and data.
OFFLINE = {
    "LITELLM_LOCAL_MODEL_COST_MAP": "True", "HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1",
    "OPENAI_API_KEY": "none", "NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1", "TQDM_DISABLE": "1",
}  # fmt: skip


def run(*command: str, folder: Path, **environment: str) -> str:
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=folder, timeout=500,
        env={**os.environ, **OFFLINE, "HOME": str(folder), "HF_HOME": str(folder), **environment},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


def python(package: str) -> str:
    """Returns the clients' Python interpreter; skips the test if the package is not installed there."""
    program = CLIENTS / "bin" / "python"
    name = package.replace("-", "_")
    if not list(CLIENTS.glob(f"lib/python3*/site-packages/{name}")):
        pytest.skip(f"no {package} in {CLIENTS}; .ci/run installs it")
    return str(program)
