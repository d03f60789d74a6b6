"""User-facing errors, and the common exit path of every program."""

import atexit
import contextlib
import errno
import gc
import io
import os
import re
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, NoReturn, TextIO

from estimator.interrupts import EXIT_ERROR as EXIT_ERROR
from estimator.interrupts import EXIT_INTERRUPTED as EXIT_INTERRUPTED

EXIT_DIVERGED = 3
EXIT_STOPPED = 4  # by a command of control.py; a launcher does not start it again
EXIT_APART = 75  # EX_TEMPFAIL of sysexits.h: the processes of a run did not find, or lost, each other
NOT_FINITE = (
    "the model's probabilities are not finite (NaN or infinite): its weights have diverged; use those of an earlier "
    "checkpoint (move this one out of the run)"
)

LOST_PEER = (
    "another process of this run has ended, or cannot be reached; its own output says why: start the same command on "
    "every host again, to continue from the newest checkpoint"
)


class UserError(Exception):
    """An error that the user can fix.

    The message says what is wrong, where (file, key, offset) and how to fix it; it is printed without a traceback.
    code: exit code of the program.
    """

    code = EXIT_ERROR


class DivergedError(UserError):
    """Training has diverged: the loss or the weights are not finite, or the loss is far above its lowest."""

    code = EXIT_DIVERGED


class _Console(io.FileIO):
    """A standard stream that never fails, so that work survives a closed terminal, a closed pipe or a full disk."""

    failure: OSError | None = None

    def write(self, data: Any, /) -> int:
        try:
            return super().write(data)
        except OSError as error:
            self.failure = error
            return len(data)


# A thread of Orbax. After a failed write some wait for others that have ended: Python would wait for
# them up to ten minutes. Writes that succeed are waited for when checkpoints are closed.
ORBAX_WRITER = "_SignalingThread"
LEAVING_SECONDS = 2.0
CHECKPOINT_READER = "checkpoint-reader"  # a thread of ours
OUT_OF_MEMORY = (
    "memory ran out; close other programs, or give smaller batches (micro_batch_size, n_ctx) or fewer workers"
)


def open_console() -> None:
    """Makes stdout and stderr streams that never fail, in any encoding; stdin keeps bytes it cannot decode.

    Streams that were closed by whoever started the program are empty.
    """
    if sys.stdin is None:  # first, so that each takes its own number, and no file that is opened later does
        sys.stdin = open(os.devnull, encoding="utf-8")  # noqa: SIM115 (open as long as the program)
    for name, descriptor, errors in (("stdout", 1, "replace"), ("stderr", 2, "backslashreplace")):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8", errors="replace"))  # noqa: SIM115 (open as long as the program)
            continue
        setattr(sys, name, _console(stream, descriptor, errors, is_lines=name == "stderr" or stream.isatty()))
    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(errors="surrogateescape")


def _console(stream: TextIO, descriptor: int, errors: str, *, is_lines: bool) -> io.TextIOWrapper:
    """A stream to take the place of another one."""
    stream.flush()
    buffer = io.BufferedWriter(_Console(descriptor, "wb", closefd=False))
    return io.TextIOWrapper(buffer, stream.encoding, errors, line_buffering=is_lines)


def hide_native_output() -> None:
    """Keeps out of stdout what native code writes there: Python gets a descriptor of its own, number 1 leads nowhere.

    Child processes do not inherit stdout afterwards.
    """
    try:
        if sys.stdout.fileno() != 1:  # a notebook's, or a test's
            return
    except (AttributeError, OSError):
        return
    errors = sys.stdout.errors or "strict"
    sys.stdout = _console(sys.stdout, os.dup(1), errors, is_lines=sys.stdout.isatty())
    with open(os.devnull, "wb") as nothing:
        os.dup2(nothing.fileno(), 1)


def require_output() -> None:
    """Raises the OSError that kept output from stdout's reader, for programs whose result is their output."""
    sys.stdout.flush()
    raw = getattr(getattr(sys.stdout, "buffer", None), "raw", None)
    if isinstance(raw, _Console) and raw.failure:
        raise raw.failure


def run_program(main: Callable[[], int | None]) -> None:
    """Calls a program's `main` and exits with its code; a UserError or an OSError becomes a one-line message."""
    open_console()
    threading.excepthook = _thread_failed
    atexit.register(gc.freeze)  # else Python ends by a search for cycles among all that JAX has made, for 0.2 s
    has_failed = True
    try:
        code = main() or 0
        has_failed = False
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        code = error.code
    except MemoryError:
        print(f"error: {OUT_OF_MEMORY}", file=sys.stderr)
        code = EXIT_ERROR
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        code = EXIT_INTERRUPTED
    except BrokenPipeError:
        code = 0  # the reader of our output went away (`| head`): not an error
    except OSError as error:
        print(f"error: {describe_os_error(error)}", file=sys.stderr)
        code = EXIT_ERROR
    except BaseException as error:
        if _has_lost_peer(error):
            _leave(EXIT_APART, f"error: {LOST_PEER} ({' '.join(str(error).split())})")
        if not _is_starved(error) and not _is_out_of_memory(error):
            raise
        advice = OUT_OF_MEMORY if _is_out_of_memory(error) else f"{error}; {_limits_advice(error)}"
        print(f"error: {advice}", file=sys.stderr)
        code = EXIT_ERROR
    abandoned = (
        type(each).__name__ == ORBAX_WRITER or each.name == CHECKPOINT_READER for each in threading.enumerate()
    )
    if (code == EXIT_ERROR and any(abandoned)) or (has_failed and _has_peers()):
        _leave(code)
    sys.exit(code)


def _leave(code: int, line: str = "") -> NoReturn:
    """Ends the process without its threads and without JAX, which would wait for other processes."""
    if line:
        print(line, file=sys.stderr)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _has_peers() -> bool:
    """Whether JAX connects this process with others, after a moment in which they can end for the same reason.

    At its end JAX would wait for them for five minutes, and they for it if they have not failed. The first process is
    the one that all are connected with.
    """
    jax = sys.modules.get("jax")
    if jax is None or not jax.distributed.is_initialized() or jax.process_count() == 1:
        return False
    if jax.process_index() == 0:
        time.sleep(LEAVING_SECONDS)
    return True


def _thread_failed(failed: threading.ExceptHookArgs) -> None:
    """Says in one line that a thread next to the program, such as its progress bar, had no memory or a failing disk."""
    error, thread = failed.exc_value, failed.thread
    if error is None or not (isinstance(error, (MemoryError, OSError)) or _is_starved(error)):
        threading.__excepthook__(failed)
        return
    reason = "memory ran out" if isinstance(error, MemoryError) else error
    print(f"warning: {thread.name if thread else 'a thread'} ended: {reason}", file=sys.stderr)


def _is_starved(error: BaseException) -> bool:
    """Whether no thread can be started or no library loaded; those in Rust, which panic, have shown a message.

    Python's parser of patterns has no exception for a lack of memory.
    """
    signs = (
        "can't start new thread",
        "can't allocate",
        "failed to map segment from shared object",
        "error return without exception set",
    )
    return type(error).__name__ == "PanicException" or any(sign in str(error) for sign in signs)


def _is_out_of_memory(error: BaseException) -> bool:
    """Whether an array did not fit into the memory of a device, or of this machine."""
    signs = ("Out of memory", "out of memory", "RESOURCE_EXHAUSTED", "std::bad_alloc")
    return _is_of_devices(error) and any(sign in str(error) for sign in signs)


def _has_lost_peer(error: BaseException) -> bool:
    """Whether a process that this one computes with has ended, or its connection has, by Gloo's and NCCL's words."""
    signs = ("Connection reset by peer", "Connection closed by peer", "Broken pipe", "remote process exited")
    return _is_of_devices(error) and any(sign in str(error) for sign in signs)


def _is_of_devices(error: BaseException) -> bool:
    """Whether JAX raised it for what its devices reported: a program's first call raises other types than later ones.

    See findings/jax_later_calls_raise_value_errors.sh.
    """
    is_status = type(error) is ValueError and re.match(r"[A-Z_]{4,}: ", str(error))
    return bool(is_status) or type(error).__name__ in ("JaxRuntimeError", "XlaRuntimeError")


def _limits_advice(error: BaseException) -> str:
    disk = ", or install on a file system without noexec" if "map segment" in str(error) else ""
    return f"raise the limits of memory and processes, or use fewer workers{disk}"


def import_failed(error: ImportError, advice: str) -> UserError:
    """The UserError for an optional package: `advice` if it is not installed, else why it cannot be imported."""
    reason = " ".join(str(error).split())
    if not isinstance(error, ModuleNotFoundError):
        fix = _limits_advice(error) if _is_starved(error) else "install the package again, in versions that fit"
        return UserError(f"a package is installed but cannot be imported: {reason}; {fix}")
    is_named = str(error.name).lower() in advice.lower()
    return UserError(advice if is_named else f"{advice} ({reason})")


@contextlib.contextmanager
def naming(path: str | os.PathLike[str]) -> Iterator[None]:
    """Adds a path to an OSError that names none, as those of an open file."""
    try:
        yield
    except OSError as error:
        error.filename = error.filename or os.fspath(path)
        raise


@contextlib.contextmanager
def of_key(key: str) -> Iterator[None]:
    """Puts the key of the JSON file that names a path in front of a UserError about the path."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{key}: {error}") from None


def message(error: UserError | OSError) -> str:
    """One sentence for the person at the keyboard."""
    return str(error) if isinstance(error, UserError) else describe_os_error(error)


def is_memory_error(error: BaseException) -> bool:
    """Whether memory ran out, as Python, the operating system or OpenSSL says it."""
    if isinstance(error, OSError):  # OpenSSL's are, and name no file; the text of other errors may be a server's
        return error.errno == errno.ENOMEM or (not error.filename and "malloc failure" in str(error))
    return isinstance(error, MemoryError)


def describe_os_error(error: OSError) -> str:
    """The operating system's error, the file it is about, and how to fix it."""
    where = f"{error.filename}: " if error.filename else ""
    if is_memory_error(error):
        return f"{where}{OUT_OF_MEMORY}"
    fix = {
        errno.ENOSPC: "; free some space and run the same command again",
        errno.EDQUOT: "; free some space and run the same command again",
        errno.EFBIG: "; the file system, or a limit (ulimit -f), allows no larger files: choose another place",
        errno.EACCES: "; check the permissions or choose another place",
        errno.EROFS: "; choose another place",
        errno.ENOENT: "; check the spelling of the path",
        errno.EEXIST: "; choose another name, or move the file of that name elsewhere",
        errno.ENOTDIR: "; a part of the path is a file where a folder is needed; choose another place",
        errno.EISDIR: "; name a file, not a folder",
        errno.EIO: "; the disk or its connection fails: run the same command again, or choose another place",
        errno.EMFILE: "; raise the limit of open files (ulimit -n) and run the same command again",
    }.get(error.errno or 0, "")
    return f"{where}{error.strerror or error}{fix}"
