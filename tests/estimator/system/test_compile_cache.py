"""Location and size of the compilation cache."""

import os
import subprocess
import sys
import warnings
from pathlib import Path

import jax
import pytest
from conftest import ROOT
from jax._src import compilation_cache

from estimator.system import compile_cache


@pytest.fixture(autouse=True)
def settings(monkeypatch, tmp_path):
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR", raising=False)
    monkeypatch.setenv("GPT2_CACHE", str(tmp_path))
    names = ("jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs")
    before = {name: getattr(jax.config, name) for name in names}
    yield
    for name, value in before.items():
        jax.config.update(name, value)


def test_programs_are_kept_in_the_users_cache(tmp_path):
    compile_cache.use()
    (folder,) = (tmp_path / "compiled").iterdir()
    assert jax.config.jax_compilation_cache_dir == str(folder)


def test_what_the_environment_says_counts(monkeypatch):
    before = jax.config.jax_compilation_cache_dir
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "")
    compile_cache.use()
    assert jax.config.jax_compilation_cache_dir == before


def test_a_changed_bit_of_a_program_is_noticed(monkeypatch):
    for name in {"compress_executable", "zstandard"} & set(vars(compilation_cache)):
        monkeypatch.setattr(compilation_cache, name, getattr(compilation_cache, name))
    compile_cache.use()
    program = b"".join(b"instruction %d\n" % (number * number) for number in range(2000))
    entry = compilation_cache.compress_executable(program)
    assert compilation_cache.decompress_executable(entry) == program
    for place in range(20, len(entry), max(1, len(entry) // 200)):
        damaged = bytearray(entry)
        damaged[place] ^= 1 << place % 8
        with pytest.raises(Exception, match="decompress"):
            compilation_cache.decompress_executable(bytes(damaged))


def test_the_oldest_are_forgotten(monkeypatch, tmp_path):
    compile_cache.use()
    (folder,) = (tmp_path / "compiled").iterdir()
    for age in range(5):
        path = folder / f"{age}"
        path.write_bytes(b"x" * 10)
        os.utime(path, (1000 - age, 1000 - age))
    monkeypatch.setattr(compile_cache, "MOST_BYTES", 35)
    compile_cache.use()
    assert sorted(path.name for path in folder.iterdir()) == ["0", "1", "2"]


def test_without_a_place_nothing_is_kept_and_a_line_says_so(monkeypatch, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("GPT2_CACHE", str(tmp_path / "file"))
    before = jax.config.jax_compilation_cache_dir
    compile_cache.use()
    assert jax.config.jax_compilation_cache_dir == before
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"compiled programs are not kept in {tmp_path / 'file'}/compiled/")
    assert line.endswith(": Not a directory; free some space, or set GPT2_CACHE to a folder that can be written")


def test_a_place_that_cannot_be_written_is_said_once(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(warnings, "showwarning", lambda *arguments: pytest.fail(str(arguments[0])))
    compile_cache.use()
    (folder,) = (tmp_path / "compiled").iterdir()
    for name in ("jit_a", "jit_b"):  # JAX's words, which a run without permission shows
        fault = f"PermissionError: [Errno 13] Permission denied: '{folder}/{name}-0-cache'"
        text = f"Error writing persistent compilation cache entry for '{name}': {fault}"
        warnings.showwarning(UserWarning(text), UserWarning, "compiler.py", 1)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(
        f"compiled programs are not kept in {folder}: PermissionError: [Errno 13] Permission denied; "
    )


def test_containers_on_one_machine_share_their_programs(monkeypatch, tmp_path):
    for name in ("pod-1", "pod-2"):
        monkeypatch.setattr("platform.node", lambda name=name: name)
        compile_cache.use()
    assert len(list((tmp_path / "compiled").iterdir())) == 1


DAMAGED = """
import sys, jax
sys.path.insert(0, {root!r})
from estimator.system import compile_cache
compile_cache.use()
print(float(jax.jit(lambda x: x * 2 + 1)(3.0)))
"""


def run(tmp_path: Path) -> subprocess.CompletedProcess:
    program = DAMAGED.format(root=str(ROOT))
    environment = os.environ | {"GPT2_CACHE": str(tmp_path)}
    return subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True)


def test_an_entry_that_cannot_be_read_is_replaced(tmp_path):
    assert run(tmp_path).stdout == "7.0\n"
    entries = [path for path in tmp_path.rglob("*-cache") if path.is_file()]
    assert entries
    whole = {path: path.read_bytes() for path in entries}
    for path in entries:
        path.write_bytes(b"damaged")
    again = run(tmp_path)
    assert (again.stdout, again.stderr) == ("7.0\n", "")
    assert all(len(path.read_bytes()) > 0.5 * len(data) for path, data in whole.items())
    assert run(tmp_path).stderr == ""


def test_entries_that_can_be_neither_read_nor_replaced_are_said_once(tmp_path):
    """As those of another user in a shared folder; here they are folders, which the superuser cannot read either."""
    run(tmp_path)
    for path in tmp_path.rglob("*-cache"):
        path.unlink()
        path.mkdir()
    again = run(tmp_path)
    (line,) = again.stderr.splitlines()
    assert (again.stdout, line.startswith("compiled programs are not kept in ")) == ("7.0\n", True)
