"""A quiet end of every program while its modules load: Ctrl-C, a missing package. Imports little, to be early."""

import os
import signal
import sys
import time

STARTED = time.monotonic()  # seconds at the start of the program, nearly
EXIT_INTERRUPTED = 130
EXIT_ERROR = 2
OLDEST_PYTHON = (3, 11)  # as in pyproject.toml
MAIN = "run_program"  # of `estimator.errors`, which handles a KeyboardInterrupt


def exit_quietly() -> None:
    """Makes a Ctrl-C end the program with code 130, without a traceback, until `run_program` is reached.

    A package that is not installed ends it with code 2 and one line, then and later; so does an older Python now.

    Programs call it before their slow imports. An exception would not do: extension modules turn a KeyboardInterrupt
    during their initialization into an ImportError. Within `run_program`, outside of imports, it is raised as usual.
    """
    if sys.version_info < OLDEST_PYTHON:
        found, needed = (".".join(map(str, version[:2])) for version in (sys.version_info, OLDEST_PYTHON))
        fix = f"run `make setup`, then .venv/bin/python, or name a newer one: make setup PYTHON=python{needed}"
        os.write(2, f"error: {sys.executable} is Python {found}, and {needed} or newer is needed; {fix}\n".encode())
        os._exit(EXIT_ERROR)
    if os.name == "nt":
        os.write(2, b"error: on Windows, use WSL2: wsl --install, and run this command in its Linux; see README.md\n")
        os._exit(EXIT_ERROR)
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # else whoever started us has it ignored
        signal.signal(signal.SIGINT, _interrupt)
    sys.excepthook = _uncaught
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})  # blocked by `malloc_settings.use`


def _interrupt(number, frame) -> None:  # without annotations, whose modules take time to load
    outer = frame
    while outer and outer.f_code.co_name != MAIN:
        outer = None if outer.f_code.co_filename == "<frozen importlib._bootstrap>" else outer.f_back
    if not outer:
        os.write(2, b"interrupted\n")
        os._exit(EXIT_INTERRUPTED)
    signal.default_int_handler(number, frame)


def _uncaught(kind, error, trace) -> None:
    package = getattr(error, "name", None) or "."
    if not issubclass(kind, ModuleNotFoundError) or "." in package or package in sys.modules:
        sys.__excepthook__(kind, error, trace)
        return
    while trace.tb_next and not trace.tb_next.tb_frame.f_code.co_filename.startswith("<frozen"):
        trace = trace.tb_next
    from estimator import invocation

    where = f"{trace.tb_frame.f_code.co_filename}, line {trace.tb_lineno}"
    print(
        f"error: the package {package} is not installed for {sys.executable} ({where}); activate the environment that "
        f"has it (. .venv/bin/activate), or install it ({invocation.install()})",
        file=sys.stderr,
    )
    raise SystemExit(EXIT_ERROR)
