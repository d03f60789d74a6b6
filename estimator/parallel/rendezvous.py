"""Says which processes of a run are missing while they find each other, and ends this one when they do not.

JAX connects the processes; where one does not come, it would end the others with SIGABRT and a stack of native code.
Process 0 listens at the port after JAX's own until all have met; the others report there.
"""

import os
import socket
import sys
import threading
import time

from estimator.errors import EXIT_APART

REPORT_SECONDS = 30  # seconds of waiting before missing processes are reported
FIX = "start the same command on every host, and let the hosts reach each other's ports"


class Rendezvous:
    """Process `index` of `count`, which JAX connects at `address` (host:port)."""

    def __init__(self, address: str, index: int, count: int):
        host, _, port = address.rpartition(":")
        self._address, self._host, self._port = address, host.strip("[]"), int(port)
        self._index, self._count = index, count
        self._here: dict[int, str] = {}
        # Before JAX listens: where it does and nothing listens here, the processes have met (`is_taken`).
        self._server = None if index else _server(self._port + 1)

    def watch(self, done: threading.Event, *, seconds: float) -> None:
        """Reports from a thread until `done` is set; after so many seconds, ends this process with EXIT_APART."""
        began = told = time.monotonic()
        server = self._server
        self._report()
        while not done.wait(0 if server else 1):
            self._accept(server) if server else self._report()
            now = time.monotonic()
            if now - began > seconds and not done.is_set():  # it may have been set meanwhile
                print(f"error: {apart(seconds, self._missing)}", file=sys.stderr, flush=True)
                os._exit(EXIT_APART)
            if now - told > REPORT_SECONDS:
                told = now
                if not (self._index and _answers(self._host, self._port)):  # process 0 tells who is missing
                    print(f"waiting: {self._missing}", file=sys.stderr, flush=True)
        if server:
            server.close()

    @property
    def _missing(self) -> str:
        if self._index:
            is_first_here = _answers(self._host, self._port)
            return "process 0 says who is missing" if is_first_here else f"no process 0 at {self._address}"
        missing = [str(index) for index in range(1, self._count) if index not in self._here]
        here = [f"{index} on {name}" for index, name in sorted(self._here.items())]
        found = ", ".join([f"0 on {socket.gethostname()}", *here])
        return f"process {', '.join(missing)} of {self._count} is missing; here: {found}"

    def _report(self) -> None:
        """Reports this process to process 0, once."""
        if self._here or not self._index:
            return
        try:
            with socket.create_connection((self._host, self._port + 1), timeout=5) as line:
                line.sendall(f"{self._index} {socket.gethostname()}\n".encode())
        except (OSError, OverflowError):
            return
        self._here[self._index] = ""

    def _accept(self, server: socket.socket) -> None:
        """Waits a moment for the report of a process."""
        try:
            line, _ = server.accept()
            with line:
                line.settimeout(5)
                number, name = line.recv(300).decode(errors="replace").split()
                index = int(number)
        except (OSError, ValueError):
            return
        if index in self._here:
            print(
                f"process {index} was here already, on {self._here[index]}, and comes again, on {name}; if these are "
                "two, give each a number of its own (JAX_PROCESS_ID)",
                file=sys.stderr,
                flush=True,
            )
        self._here[index] = name


def is_taken(address: str) -> bool:
    """Whether the processes of a run have met at an address of this machine: another one would make JAX end them.

    Of other machines nothing is known, as not every network lets the port of process 0 through.
    """
    host, _, port = address.rpartition(":")
    host, after = host.strip("[]"), int(port) + 1
    # Where another program uses the second port, process 0 may wait without it: then nothing is known either.
    return _is_here(host) and _answers(host, int(port)) and not _answers(host, after) and _is_free(after)


def _is_here(host: str) -> bool:
    """Whether a name or address is this machine's."""
    try:
        family, kind, *_, address = socket.getaddrinfo(host, 0, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind) as found:
            found.bind(address)
    except OSError:
        return False
    return True


def apart(seconds: float, cause: str) -> str:
    """What to say when the processes did not find each other."""
    return f"the processes of this run did not find each other within {seconds:.0f} s ({cause}); {FIX}"


def _server(port: int) -> socket.socket | None:
    """Listens at a port in IPv4 and IPv6; None if another program uses it: then nobody tells who is missing."""
    is_both = socket.has_dualstack_ipv6()
    family = socket.AF_INET6 if is_both else socket.AF_INET
    try:
        server = socket.create_server(("", port), family=family, dualstack_ipv6=is_both)
    except (OSError, OverflowError):
        return None
    server.settimeout(0.5)
    return server


def _is_free(port: int) -> bool:
    """Whether `_server` could listen at a port. Several processes may ask simultaneously."""
    is_both = socket.has_dualstack_ipv6()
    try:
        with socket.socket(socket.AF_INET6 if is_both else socket.AF_INET) as found:
            found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if is_both:
                found.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
            found.bind(("", port))
    except (OSError, OverflowError):
        return False
    return True


def _answers(host: str, port: int) -> bool:
    try:
        socket.create_connection((host, port), timeout=5).close()
    except (OSError, OverflowError):
        return False
    return True
