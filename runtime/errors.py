"""Errors for the person at the keyboard, and how every program of this repository ends on one."""

import errno
import os
import sys
from collections.abc import Callable

EXIT_ERROR = 2
EXIT_INTERRUPTED = 130


class UserError(Exception):
    """Something the person at the keyboard can fix.

    The message says what is wrong, where (file, key, offset) and how to fix it; it is printed without a traceback.
    code: that the program ends with.
    """

    code = EXIT_ERROR


def run_program(main: Callable[[], int | None]) -> None:
    """Calls a program's `main` and exits with its code; a UserError or a refusal of the system becomes one message."""
    try:
        code = main() or 0
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        code = error.code
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        code = EXIT_INTERRUPTED
    except BrokenPipeError:
        # The reader of our output went away (`| head`): not an error, but nothing more may be written at exit either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 0
    except OSError as error:
        print(f"error: {describe_os_error(error)}", file=sys.stderr)
        code = EXIT_ERROR
    sys.exit(code)


def describe_os_error(error: OSError) -> str:
    """Says what the operating system refused, for which file, and what to do about it."""
    where = f"{error.filename}: " if error.filename else ""
    fix = {
        errno.ENOSPC: "; free some space and run the same command again",
        errno.EDQUOT: "; free some space and run the same command again",
        errno.EACCES: "; check the permissions or choose another place",
        errno.EROFS: "; choose another place",
        errno.ENOENT: "; check the spelling of the path",
        errno.EEXIST: "; remove what is there, or choose another name",
        errno.ENOTDIR: "; a part of the path is a file where a folder is needed: remove it, or choose another place",
        errno.EISDIR: "; name a file, not a folder",
    }.get(error.errno or 0, "")
    return f"{where}{error.strerror or error}{fix}"
