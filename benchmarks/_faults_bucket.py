"""A bucket on this machine for runs under faults: the emulator and its proxy of the tests."""

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

sys.path.append(str(Path(__file__).resolve().parent.parent / "tests"))


class Bucket(NamedTuple):
    """faults: see tests/helpers/storage_server.py. environment: leads programs to it."""

    name: str
    faults: "object"
    environment: dict[str, str]


@contextlib.contextmanager
def serve() -> Iterator[Bucket]:
    from helpers import storage_server  # type: ignore[import-not-found]

    with storage_server.serve() as service:
        environment = storage_server.environment(service.address)
        os.environ.update(environment)
        yield Bucket(storage_server.BUCKET, service.faults, environment)
