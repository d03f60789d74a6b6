"""Finds the cause of an error that Orbax raises, and hides what its threads print about it."""

import contextlib
import datetime
import json
import logging
import os
import re
import sys
from collections.abc import Iterator
from typing import Any

from estimator import json_text
from estimator.errors import UserError, describe_os_error

DESCRIPTION = "_CHECKPOINT_METADATA"


def silence() -> None:
    """Hides tracebacks that Orbax's threads log for each failure, because one UserError replaces them.

    TensorStore's threads report to Orbax's event loop after a failed write closed it, and coroutines that a failed read
    abandoned end in errors whenever they are collected.
    """
    for library in ("absl", "asyncio"):
        logging.getLogger(library).setLevel(logging.CRITICAL)
    hook = sys.unraisablehook

    def report(unraisable: Any) -> None:
        code = getattr(unraisable.object, "cr_code", None)  # of a coroutine
        is_abandoned = code is not None and "orbax" in code.co_filename
        if not is_abandoned and str(unraisable.exc_value) != "Event loop is closed":
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


def system_code(error: BaseException) -> int | None:
    """The operating system's code of an error, which TensorStore writes into a text; None where it has none."""
    cause = causes(error)[-1]
    found = re.search(r"os_error_code='(\d+)'", str(cause))
    return int(found[1]) if found else getattr(cause, "errno", None)


def cause_and_fix(error: BaseException) -> str:
    """Why a checkpoint could not be written."""
    if code := system_code(error):
        return describe_os_error(OSError(code, os.strerror(code)))
    return f"{root_cause(error)}; fix the cause (is the disk full?)"


def if_damaged(step: int, steps: list[int]) -> str:
    """Advice on a damaged checkpoint. steps: of all checkpoints of its folder."""
    earlier = [each for each in steps if each < step]
    other = f"continue from step {max(earlier)}" if earlier else "begin again"
    return f"If a copy of it is whole, restore that; else move this folder out of the run to {other}"


@contextlib.contextmanager
def named_description(folder: Any) -> Iterator[None]:
    """Names the checkpoint whose description is damaged: Orbax reads those of all steps in a folder together, and its
    errors name none."""
    try:
        yield
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        steps = sorted(int(path.name) for path in folder.iterdir() if path.name.isdigit())
        for step in reversed(steps):
            if fault := _fault_of_description(folder / str(step)):
                raise UserError(
                    f"{folder / str(step)} could not be read: its description, {DESCRIPTION}, is damaged ({fault}). "
                    f"{if_damaged(step, steps)}"
                ) from error
        raise


def _fault_of_description(checkpoint: Any) -> str:
    """Why Orbax cannot take the description of a checkpoint, or "". It does without one that is no JSON."""
    from orbax.checkpoint import v1 as ocp

    try:
        found = json_text.loads((checkpoint / DESCRIPTION).read_text(encoding="utf-8"))
        if not isinstance(found, dict | None):
            return "not a JSON object"
        datetime.datetime.fromtimestamp((found or {}).get("commit_timestamp_nsecs", 0) / 1e9)
        ocp.metadata(checkpoint)
    except (OSError, json.JSONDecodeError, UnicodeDecodeError):
        return ""
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        return root_cause(error)
    return ""


def damaged_file(checkpoint: Any, error: BaseException) -> str:
    """Which file of a checkpoint made Orbax fail with an error, such as that None has no keys; "" if it says so."""
    state = checkpoint / "state"
    for path in [state / "_METADATA", state / "_sharding", *(state / "array_metadatas").glob("*")]:
        try:
            found = json_text.loads(path.read_text(encoding="utf-8"))
        except OSError:
            continue
        except ValueError:
            found = None
        if not isinstance(found, dict) or not found:
            return f"{path.relative_to(checkpoint)} is damaged: not a JSON object, or an empty one"
        if path.name == "_sharding" and not all(map(_holds_json, found.values())):
            return f"{path.relative_to(checkpoint)} is damaged: a value in it is not JSON"
    if isinstance(causes(error)[-1], (TypeError, KeyError, AttributeError)):
        return (
            "its arrays cannot be listed: one of state/manifest.ocdbt, state/_METADATA, state/_sharding and the files "
            "in state/d and state/array_metadatas is damaged"
        )
    return ""


def _holds_json(value: object) -> bool:
    try:
        json_text.loads(str(value))
    except ValueError:
        return False
    return True
