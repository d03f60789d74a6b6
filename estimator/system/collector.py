"""Python's search for cycles of references, left out where it finds none."""

import contextlib
import gc
from collections.abc import Iterator


@contextlib.contextmanager
def paused() -> Iterator[None]:
    """Searches for no cycles while a program's modules load, nor later among what they made, which stays.

    That is a twentieth of the time to a first token. Has no effect in a process that has done so before.
    """
    if gc.get_freeze_count():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
