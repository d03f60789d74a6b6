"""Imported by the fork server of `crawler.isolation`, never by a program: who asks it for a process may be killed.

A program or worker that ends while it asks for a process leaves half a request, for which the fork server, or the new
process, would print the traceback of an EOFError beneath the message of what ended the program.
"""

import sys
from types import TracebackType


def report(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    if not isinstance(error, EOFError):
        sys.__excepthook__(kind, error, trace)


sys.excepthook = report
