"""System errors: each message names the operation, the file, and a fix."""

import errno
import importlib
import os
import re
import ssl
import subprocess
import sys
import tomllib

import jax
import pytest
from conftest import ROOT

from estimator import errors, interrupts
from estimator.errors import describe_os_error, import_failed


def refused(action) -> str:
    with pytest.raises(OSError) as caught:
        action()
    return describe_os_error(caught.value)


def test_each_refusal_names_the_path_and_the_fix(tmp_path):
    file = tmp_path / "file"
    file.write_text("")
    below = file / "below"
    assert refused(file.mkdir) == f"{file}: File exists; choose another name, or move the file of that name elsewhere"
    assert refused(tmp_path.read_text) == f"{tmp_path}: Is a directory; name a file, not a folder"
    assert refused(lambda: below.write_text("")).startswith(f"{below}: Not a directory; a part of the path is a file")
    assert refused(lambda: os.stat(tmp_path / "no")).endswith(
        "No such file or directory; check the spelling of the path"
    )


def test_a_lack_of_memory_is_said_whoever_reports_it():
    for error in (OSError(errno.ENOMEM, "Cannot allocate memory"), ssl.SSLError("[EVP] malloc failure (_ssl.c:3098)")):
        assert describe_os_error(error) == errors.OUT_OF_MEMORY
    assert "check the spelling" in refused(lambda: os.stat("/nowhere/malloc failure"))


def test_a_program_ends_with_this_message_and_no_traceback(tmp_path):
    program = (
        f"import pathlib; from estimator.errors import run_program; run_program(pathlib.Path({str(tmp_path)!r}).mkdir)"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert (done.returncode, done.stdout) == (2, "")
    assert (
        done.stderr == f"error: {tmp_path}: File exists; choose another name, or move the file of that name elsewhere\n"
    )


@pytest.mark.parametrize(("kind", "waits"), [("_SignalingThread", False), ("OtherThread", True)])
def test_an_error_does_not_wait_for_what_a_failed_write_left_waiting(kind, waits):
    program = (
        "import threading, time; from estimator.errors import UserError, run_program\n"
        f"class {kind}(threading.Thread):\n"
        "    def run(self): time.sleep(2); print('waited')\n"
        "def main():\n"
        f"    {kind}().start()\n"
        "    raise UserError('no disk')\n"
        "run_program(main)"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert (done.returncode, done.stderr) == (2, "error: no disk\n")
    assert ("waited" in done.stdout) == waits


@pytest.mark.parametrize(
    ("raised", "shown"),
    [
        ("MemoryError", "warning: display ended: memory ran out\n"),
        ("OSError(5, 'Input/output error', 'a')", "warning: display ended: [Errno 5] Input/output error: 'a'\n"),
        ('RuntimeError("can\'t allocate read lock")', "warning: display ended: can't allocate read lock\n"),
        (
            "SystemError('error return without exception set')",
            "warning: display ended: error return without exception set\n",
        ),
        ("ValueError('a fault')", "ValueError: a fault\n"),
    ],
)
def test_a_thread_without_memory_or_disk_is_one_line_and_a_fault_has_its_traceback(raised, shown):
    program = (
        "import threading; from estimator.errors import run_program\n"
        f"def show(): raise {raised}\n"
        "def main():\n"
        "    thread = threading.Thread(target=show, name='display')\n"
        "    thread.start(); thread.join()\n"
        "run_program(main)"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert (done.returncode, done.stdout) == (0, "")
    assert done.stderr.endswith(shown)
    assert ("Traceback" in done.stderr) == shown.startswith("Value")


def test_a_console_of_any_encoding_that_nobody_reads_ends_no_program():
    program = (
        "import sys; from estimator.errors import run_program\n"
        "def main():\n"
        "    for stream in (sys.stdout, sys.stderr):\n"
        "        for _ in range(3): print('\\u6f22\\udc80', file=stream, flush=True)\n"
        "    return 7\n"
        "run_program(main)"
    )
    command = [sys.executable, "-c", program]
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600)
    assert (done.returncode, done.stdout, done.stderr) == (7, "??\n" * 3, "\\u6f22\\udc80\n" * 3)
    with open("/dev/full", "w") as full:
        assert subprocess.run(command, cwd=ROOT, stdout=full, stderr=full, timeout=600, check=False).returncode == 7
    shell = ["sh", "-c", 'exec "$0" -c "$1" >&- 2>&-', sys.executable, program]
    assert subprocess.run(shell, cwd=ROOT, timeout=600, check=False).returncode == 7
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    process.stdout.close()
    assert process.wait(timeout=600) == 7


@pytest.mark.parametrize("closed", ["<&-", "<&- >&-", "<&- 2>&-", "<&- >&- 2>&-"])
def test_closed_streams_are_empty_and_no_file_takes_their_place(closed, tmp_path):
    program = (
        "import os, sys\n"
        "from estimator.errors import run_program\n"
        "def main():\n"
        "    assert sys.stdin.read() == '' and not sys.stdin.isatty()\n"
        "    file = open(sys.argv[1], 'w')\n"
        "    os.system('echo spoiled; echo spoiled >&2')\n"  # as a library in C
        "    return 7 if file.fileno() > 2 else 1\n"
        "run_program(main)"
    )
    out = tmp_path / "file"
    shell = ["sh", "-c", f'exec "$0" -c "$1" "$2" {closed}', sys.executable, program, str(out)]
    assert subprocess.run(shell, cwd=ROOT, timeout=600, check=False).returncode == 7
    assert out.read_text() == ""


def test_a_result_that_cannot_be_written_is_an_error():
    program = (
        "from estimator.errors import require_output, run_program\n"
        "def main():\n    print('result')\n    require_output()\n"
        "run_program(main)"
    )
    command = [sys.executable, "-c", program]
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            command, cwd=ROOT, stdout=full, stderr=subprocess.PIPE, text=True, timeout=600, check=False
        )
    assert done.returncode == 2
    assert "No space left on device; free some space" in done.stderr


PROGRAMS = sorted(
    str(path.relative_to(ROOT))
    for path in [*ROOT.glob("*.py"), *(ROOT / "datasets").rglob("*.py")]
    if "run_program(main)" in path.read_text()
)


@pytest.mark.parametrize("program", PROGRAMS)
def test_an_interrupt_while_modules_load_ends_a_program_without_a_traceback(program, tmp_path):
    slow = "import signal, time\nsignal.raise_signal(signal.SIGINT)\ntime.sleep(60)\n"
    (tmp_path / "argparse.py").write_text(slow)  # found before the standard library's module
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    command = [sys.executable, program, "--help"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "interrupted\n")


@pytest.mark.parametrize("program", PROGRAMS)
def test_a_wrong_command_line_is_one_line(program):
    command = [sys.executable, program, "--no_such_option"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: ")
    assert done.stderr.endswith(f"; {os.path.basename(program)} --help shows all options\n")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("where", ["import google_crc32c", "run_program(lambda: __import__('missing_one'))"])
def test_a_package_that_is_not_installed_is_one_line_with_its_fix(where, tmp_path):
    program = tmp_path / "program.py"
    start = "from estimator import interrupts; interrupts.exit_quietly()\nfrom estimator.errors import run_program\n"
    program.write_text(start + where)
    command = [sys.executable, "-S", str(program)]  # -S: no site-packages
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    package = "google_crc32c" if "google" in where else "missing_one"
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(
        f"error: the package {package} is not installed for {sys.executable} ({program}, line 3)"
    )
    assert "pip install -r requirements.txt" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_python_that_is_too_old_is_named_before_its_packages():
    program = (
        "from estimator import interrupts; interrupts.OLDEST_PYTHON = (99, 1); interrupts.exit_quietly(); print(1)"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=60)
    found = f"{sys.version_info.major}.{sys.version_info.minor}"
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"error: {sys.executable} is Python {found}, and 99.1 or newer is needed; run `make")


def test_the_oldest_python_is_that_of_the_package():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["requires-python"] == ">=" + ".".join(map(str, interrupts.OLDEST_PYTHON))


def test_an_interrupt_within_a_program_is_an_exception_that_its_code_can_handle():
    program = (
        "import signal; from estimator import interrupts; interrupts.exit_quietly()\n"
        "from estimator.errors import run_program\n"
        "def main():\n"
        "    try: signal.raise_signal(signal.SIGINT)\n"
        "    finally: print('cleaned up')\n"
        "run_program(main)"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (130, "cleaned up\n", "interrupted\n")


class PanicException(BaseException):
    """Like the exception of Rust extensions that panic."""


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        jax.errors.JaxRuntimeError(
            "INTERNAL: Error dispatching computation: Out of memory allocating 1442304640 bytes."
        ),
        jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: on a device"),
        ValueError("RESOURCE_EXHAUSTED: Out of memory allocating 1073741824 bytes."),  # from a later call
        RuntimeError("can't start new thread"),
        ImportError("libx.so: failed to map segment from shared object"),
        PanicException("no thread pool"),
        OSError(errno.EIO, "I/O"),
    ],
)
def test_a_lack_of_memory_or_a_failing_disk_is_one_line_with_its_fix(error, capsys, monkeypatch):
    def fail():
        raise error

    monkeypatch.setattr(errors, "open_console", lambda: None)
    with pytest.raises(SystemExit) as end:
        errors.run_program(fail)
    assert end.value.code == 2
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert re.search("run the same command again|fewer workers", line)
    assert ("noexec" in line) == isinstance(error, ImportError)  # the same message without an errno


def test_other_errors_keep_their_traceback(monkeypatch):
    monkeypatch.setattr(errors, "open_console", lambda: None)
    with pytest.raises(RuntimeError, match="a fault of ours"):
        errors.run_program(lambda: (_ for _ in ()).throw(RuntimeError("a fault of ours")))


def test_an_error_of_an_open_file_names_it(tmp_path):
    with pytest.raises(OSError, match="I/O") as caught, errors.naming(tmp_path / "file"):
        raise OSError(errno.EIO, "I/O")
    assert errors.describe_os_error(caught.value).startswith(f"{tmp_path / 'file'}: ")


def test_a_package_that_is_installed_and_broken_is_not_called_missing(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    sources = {
        "absent": "import broken_needs_this",
        "broken": "from os import no_such_name",
        "starved": "raise ImportError('x.so: failed to map segment from shared object')",
    }
    for name, text in sources.items():
        (tmp_path / f"package_{name}.py").write_text(text)

    def told(name):
        with pytest.raises(ImportError) as caught:
            importlib.import_module(name)
        return str(import_failed(caught.value, f"this needs {name}: pip install {name}"))

    assert told("package_missing") == "this needs package_missing: pip install package_missing"
    assert told("package_absent").endswith("pip install package_absent (No module named 'broken_needs_this')")
    assert "installed but cannot be imported: cannot import name 'no_such_name' from 'os'" in told("package_broken")
    starved = told("package_starved")
    assert "failed to map segment" in starved
    assert "raise the limits of memory" in starved
    assert "pip install" not in told("package_broken") + starved
