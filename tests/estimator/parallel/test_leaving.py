"""A process that fails alone leaves immediately, so that the others, which wait for it, notice."""

import signal
import subprocess

import pytest
from helpers.processes import start_two_of

PROGRAM = """
import sys
from estimator.errors import UserError, run_program
from estimator.parallel import agreement, distributed
distributed.HEARTBEAT_SECONDS = 5
error = {"user": UserError("no data"), "interrupt": KeyboardInterrupt(), "": None}[sys.argv[1]]
def main():
    distributed.connect()
    if error:
        raise error
    agreement.from_first(lambda: 1)
run_program(main)
"""


@pytest.mark.parametrize(
    ("errors", "codes"),
    [
        (("", "user"), [-signal.SIGABRT, 2]),
        (("interrupt", ""), [130, -signal.SIGABRT]),
        (("user", "user"), [2, 2]),
    ],
)
def test_one_that_fails_alone_takes_the_others_along_and_all_keep_their_codes_where_all_fail(errors, codes):
    processes = start_two_of(PROGRAM, errors, stdout=subprocess.DEVNULL)
    try:  # JAX itself waits for 300 s
        assert [process.wait(timeout=200) for process in processes] == codes
    finally:
        for process in processes:
            process.kill()
