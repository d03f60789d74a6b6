"""Proof that a request comes from Alexa: a signature over its body, by a certificate that chains to a trusted root."""

import asyncio
import base64
import binascii
import datetime
import posixpath
import re
import time
import urllib.parse
import warnings
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
    from cryptography.x509 import Certificate

HOST, FOLDER = "s3.amazonaws.com", "/echo.api/"
SAN = "echo-api.amazon.com"
CHAIN_HEADER, SIGNATURE_HEADER = "signaturecertchainurl", "signature-256"
MAX_URL = 2048
MAX_CHAIN_BYTES, MAX_CHAIN = 32 << 10, 10
FETCH_SECONDS, MAX_FETCHES = 5.0, 4
MAX_CACHED, CACHE_SECONDS = 16, 24 * 3600.0

Fetch = Callable[[str], Awaitable[bytes]]


class Refused(Exception):
    """The request is not shown to be Alexa's; the message says why, in words that hold nothing of the request."""


def chain_url(url: str) -> str:
    """The URL of a certificate chain in its plain form, if it is one that Amazon's rules allow. Raises Refused."""
    if len(url) > MAX_URL or not re.fullmatch(r"[!$&-;=?A-Z_a-z~#]+", url):  # no %, @, backslash, space, control
        raise Refused("the URL of the certificate chain is too long or has characters that it may not have")
    try:
        parts = urllib.parse.urlsplit(url)
        port = parts.port
    except ValueError:
        raise Refused("the URL of the certificate chain cannot be read") from None
    if parts.scheme != "https" or parts.netloc.lower().partition(":")[0] != HOST or port not in (None, 443):
        raise Refused(f"the URL of the certificate chain is not one of https://{HOST}")
    path = "/" + posixpath.normpath(parts.path).lstrip("/")
    if not path.startswith(FOLDER):
        raise Refused(f"the URL of the certificate chain is not in {FOLDER}")
    return f"https://{HOST}{path}" + (f"?{parts.query}" if parts.query else "")


def trusted_roots() -> list["Certificate"]:
    """The roots of certifi."""
    import certifi
    from cryptography import x509

    roots = []
    with open(certifi.where(), encoding="ascii", errors="replace") as file:
        pems = re.findall("-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", file.read(), re.S)
    with warnings.catch_warnings():  # some old roots have serial numbers that a later release will refuse to read
        warnings.simplefilter("ignore")
        for pem in pems:
            try:
                roots.append(x509.load_pem_x509_certificate(pem.encode()))
            except ValueError:
                continue
    return roots


async def fetch_chain(url: str) -> bytes:
    """Downloads a certificate chain, without following redirects. Raises Refused."""
    import httpx

    data = bytearray()
    try:
        async with (
            asyncio.timeout(FETCH_SECONDS),
            httpx.AsyncClient(follow_redirects=False, timeout=FETCH_SECONDS) as client,
            client.stream("GET", url) as response,
        ):
            if response.status_code != 200:
                raise Refused(f"the certificate chain was answered with status {response.status_code}")
            async for piece in response.aiter_bytes():
                data += piece
                if len(data) > MAX_CHAIN_BYTES:
                    raise Refused("the certificate chain is too large")
    except (httpx.HTTPError, httpx.InvalidURL, TimeoutError) as error:
        raise Refused(f"the certificate chain could not be downloaded ({type(error).__name__})") from None
    return bytes(data)


@dataclass(frozen=True)
class _Signer:
    key: "RSAPublicKey"
    expires: float


class Verifier:
    """Checks signatures; keeps the keys of chains that it has found good.

    roots: trusted certificates, by default certifi's. fetch: (URL) -> PEM, which may raise Refused. now: seconds since
    1970. All for tests, and for hosts that reach Amazon by a way of their own.
    """

    def __init__(
        self,
        *,
        roots: list["Certificate"] | None = None,
        fetch: Fetch = fetch_chain,
        now: Callable[[], float] = time.time,
    ):
        from cryptography.x509.verification import Store

        self._store = Store(trusted_roots() if roots is None else roots)
        self._fetch, self._now = fetch, now
        self._signers: OrderedDict[str, _Signer] = OrderedDict()
        self._fetching: dict[str, asyncio.Task[_Signer]] = {}

    async def verify(self, url: str, signature: str, body: bytes) -> None:
        """Raises Refused unless the signature (base64) of the body is by a key of the chain at the URL."""
        from cryptography.exceptions import InvalidSignature
        from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
        from cryptography.hazmat.primitives.hashes import SHA256

        url = chain_url(url)
        try:
            raw = base64.b64decode(signature, validate=True)
        except (binascii.Error, ValueError):
            raise Refused("the signature is not base64") from None
        if not 128 <= len(raw) <= 1024:  # RSA keys of 1,024 to 8,192 bits
            raise Refused("the signature has not the size of one")
        signer = await self._signer(url)
        try:
            signer.key.verify(raw, body, PKCS1v15(), SHA256())
        except InvalidSignature:
            raise Refused("the signature is not of this body") from None

    async def _signer(self, url: str) -> _Signer:
        cached = self._signers.get(url)
        if cached and self._now() < cached.expires:
            self._signers.move_to_end(url)
            return cached
        task = self._fetching.get(url)
        if task is None:
            if len(self._fetching) >= MAX_FETCHES:
                raise Refused("too many certificate chains are being downloaded")
            task = self._fetching[url] = asyncio.create_task(self._load(url))
            task.add_done_callback(lambda done: self._fetched(url, done))
        return await asyncio.shield(task)  # others may wait for it too

    def _fetched(self, url: str, task: asyncio.Task[_Signer]) -> None:
        del self._fetching[url]
        if not task.cancelled():
            task.exception()  # whoever waited for it may be gone

    async def _load(self, url: str) -> _Signer:
        signer = self._check_chain(await self._fetch(url))
        self._signers.pop(url, None)
        self._signers[url] = signer
        while len(self._signers) > MAX_CACHED:
            self._signers.popitem(last=False)
        return signer

    def _check_chain(self, pem: bytes) -> _Signer:
        from cryptography import x509
        from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
        from cryptography.x509.verification import PolicyBuilder, VerificationError

        now = datetime.datetime.fromtimestamp(self._now(), datetime.UTC)
        try:
            leaf, *rest = x509.load_pem_x509_certificates(pem)
            names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        except (ValueError, x509.ExtensionNotFound, x509.DuplicateExtension, x509.UnsupportedGeneralNameType):
            raise Refused("the certificate chain cannot be read") from None
        if SAN not in names.get_values_for_type(x509.DNSName):  # a wildcard is not enough
            raise Refused(f"the certificate is not for {SAN}")
        if len(rest) >= MAX_CHAIN:
            raise Refused("the certificate chain is too long")
        verifier = PolicyBuilder().store(self._store).time(now).build_server_verifier(x509.DNSName(SAN))
        try:
            chain = verifier.verify(leaf, rest)
        except VerificationError:
            raise Refused("the certificate is not valid now, or does not lead to a trusted root") from None
        key = leaf.public_key()
        if not isinstance(key, RSAPublicKey):
            raise Refused("the certificate's key is not RSA")
        end = min(certificate.not_valid_after_utc.timestamp() for certificate in chain)
        return _Signer(key, min(end, self._now() + CACHE_SECONDS))
