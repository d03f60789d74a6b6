"""From the name of a host to the addresses that may be connected to.

The check is made on the very address that the connection then goes to, so a name that points somewhere else a moment
later (DNS rebinding) gains nothing. Look-ups run in daemon threads: one that hangs in the system's resolver can neither
hold up another host nor the end of the program.
"""

import asyncio
import contextlib
import fnmatch
import ipaddress
import socket
import threading
from collections.abc import Callable, Sequence
from typing import NamedTuple

from estimator.errors import UserError

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
LookUp = Callable[[str, int], list[str]]
MAX_LOOK_UPS = 64
# IPv6 addresses of IPv4 hosts behind a translator (RFC 6052, RFC 8215).
_NAT64 = (ipaddress.ip_network("64:ff9b::/96"), ipaddress.ip_network("64:ff9b:1::/48"))


class ResolveError(Exception):
    """The name has no address."""


class PrivateAddressError(Exception):
    """The name has addresses, none of which is public."""


class Override(NamedTuple):
    """HOST:PORT:ADDRESS of the command line: where a host is, whatever DNS says. HOST may be a pattern like *.test."""

    host: str
    port: int
    address: str


def parse_override(text: str) -> Override:
    """HOST:PORT:ADDRESS as curl's --resolve takes it; an IPv6 address may be in brackets."""
    host, _, rest = text.partition(":")
    port, _, address = rest.partition(":")
    address = address.removeprefix("[").removesuffix("]")
    try:
        ipaddress.ip_address(address)
        number = int(port)
    except ValueError:
        raise UserError(f"--resolve {text}: write HOST:PORT:ADDRESS, such as example.com:443:192.0.2.7") from None
    return Override(host.lower(), number, address)


def is_public(address: str) -> bool:
    """Whether an address can be anybody's on the open internet: not private, loopback, link-local, multicast, ..."""
    ip: Address = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        inner = ip.ipv4_mapped or ip.sixtofour or (ip.teredo[1] if ip.teredo else None)
        if inner is None and any(ip in network for network in _NAT64):
            inner = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
        if inner is not None:
            return is_public(str(inner))
        if ip.is_site_local:
            return False
    return ip.is_global and not ip.is_multicast and not ip.is_reserved


def system_look_up(host: str, port: int) -> list[str]:
    """Asks the system; its order of preference, each address once."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


class Resolver:
    """Names to addresses, with overrides and without private ones."""

    def __init__(
        self,
        *,
        overrides: Sequence[Override] = (),
        allow_private: bool = False,
        timeout: float = 10.0,
        look_up: LookUp = system_look_up,
    ) -> None:
        self._overrides = overrides
        self._allow_private = allow_private
        self._timeout = timeout
        self._look_up = look_up
        self._free = asyncio.Semaphore(MAX_LOOK_UPS)

    async def addresses(self, host: str, port: int) -> list[str]:
        """The addresses of a host that may be connected to, the best first.

        Raises ResolveError, PrivateAddressError, and TimeoutError after `timeout` seconds.
        """
        for override in self._overrides:
            if override.port == port and fnmatch.fnmatchcase(host, override.host):
                return [override.address]
        async with self._free, asyncio.timeout(self._timeout):
            found = await self._in_a_thread(host.strip("[]"), port)
        if not found:
            raise ResolveError(host)
        allowed = [address for address in found if self._allow_private or is_public(address)]
        if not allowed:
            raise PrivateAddressError(host)
        return allowed

    async def _in_a_thread(self, host: str, port: int) -> list[str]:
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[list[str]] = loop.create_future()

        def tell(addresses: list[str] | None) -> None:
            if answer.done():  # nobody waits any more
                return
            if addresses is None:
                answer.set_exception(ResolveError(host))
            else:
                answer.set_result(addresses)

        def look_up() -> None:
            try:
                addresses = self._look_up(host, port)
            except (OSError, UnicodeError):
                addresses = None
            # The loop may be closed while the system is still looking.
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(tell, addresses)

        threading.Thread(target=look_up, daemon=True).start()
        return await answer


async def is_reachable(host: str, port: int, *, resolver: Resolver, timeout: float) -> bool:
    """Whether the host has an address that takes a connection, which is then closed."""
    try:
        async with asyncio.timeout(timeout):
            for address in await resolver.addresses(host, port):
                with contextlib.suppress(OSError):
                    _, writer = await asyncio.open_connection(address, port)
                    writer.close()
                    return True
    except (ResolveError, PrivateAddressError, TimeoutError):
        pass
    return False
