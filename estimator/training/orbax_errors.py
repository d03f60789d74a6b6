"""Finds the cause of an error that Orbax raises, and hides what its threads print about it."""

import logging
import sys
from typing import Any

from estimator.errors import UserError


def silence() -> None:
    """Hides tracebacks that Orbax's threads log for each failure, because one UserError replaces them.

    TensorStore's threads report to Orbax's event loop after a failed write closed it.
    """
    for library in ("absl", "asyncio"):
        logging.getLogger(library).setLevel(logging.CRITICAL)
    hook = sys.unraisablehook

    def report(unraisable: Any) -> None:
        if str(unraisable.exc_value) != "Event loop is closed":
            hook(unraisable)

    if hook.__module__ != __name__:
        sys.unraisablehook = report


def causes(error: BaseException) -> list[BaseException]:
    """The error and its chain of causes down to the root, without UserErrors."""
    seen = [error]  # Orbax raises one thread's error again in others, so the chain may contain cycles
    while (cause := seen[-1].__cause__ or seen[-1].__context__) and cause not in seen:
        seen.append(cause)
    return [error for error in seen if not isinstance(error, UserError)] or seen


def root_cause(error: BaseException) -> str:
    error = causes(error)[-1]
    text = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
    return text if len(text) <= 300 else f"{text[:100]} ... {text[-200:]}"
