"""Refusals of the system: each says what was refused, for which file, and what to do about it."""

import os
import subprocess
import sys

import pytest
from conftest import ROOT

from runtime.errors import describe_os_error


def refused(action) -> str:
    with pytest.raises(OSError) as caught:
        action()
    return describe_os_error(caught.value)


def test_each_refusal_names_the_path_and_the_fix(tmp_path):
    file = tmp_path / "file"
    file.write_text("")
    below = file / "below"
    assert refused(file.mkdir) == f"{file}: File exists; remove what is there, or choose another name"
    assert refused(tmp_path.read_text) == f"{tmp_path}: Is a directory; name a file, not a folder"
    assert refused(lambda: below.write_text("")).startswith(f"{below}: Not a directory; a part of the path is a file")
    assert refused(lambda: os.stat(tmp_path / "no")).endswith(
        "No such file or directory; check the spelling of the path"
    )


def test_a_program_ends_with_this_message_and_no_traceback(tmp_path):
    program = (
        f"import pathlib; from runtime.errors import run_program; run_program(pathlib.Path({str(tmp_path)!r}).mkdir)"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"error: {tmp_path}: File exists; remove what is there, or choose another name\n"
