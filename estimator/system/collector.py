"""Python's search for cycles of references, left out where it finds none."""

import contextlib
import gc
from collections.abc import Iterator


@contextlib.contextmanager
def paused() -> Iterator[None]:
    """Searches for no cycles while modules load, nor later among what they made, which stays: a twentieth of a start."""
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
