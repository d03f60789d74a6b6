"""The stores behind gs:// and s3://: connections, properties of objects, and checks of their bytes.

gcsfs and s3fs, not obstore: Orbax needs gcsfs for checkpoints in gs:// anyway, and obstore 0.12.1, two to six times
faster, verifies no checksum and does not give Google's crc32c: of 46 reads behind a faulty proxy, 6 returned wrong
bytes without an error. It also speaks Google's XML interface only, which gcp-storage-emulator lacks.
"""

import base64
import contextlib
import functools
import hashlib
import logging
import os
from typing import Any, NamedTuple

import google_crc32c

from estimator import invocation
from estimator.errors import UserError, import_failed
from estimator.storage.retry import Damaged

CONNECT_SECONDS, READ_SECONDS = 5, 15  # limits of a connection that is being made, and of one that is silent
EXTRAS = {"gs": ("gcsfs", "gcs"), "s3": ("s3fs", "s3")}


def located(path: str) -> tuple[Any, str]:
    """The file system of a remote path, and the object's name in it."""
    scheme, _, name = path.partition("://")
    if scheme not in EXTRAS:
        raise UserError(f"{path}: unknown kind of storage; give a path of this machine, or gs://bucket/... or s3://...")
    if not name.strip("/"):
        raise UserError(f"{path}: names no bucket; write {scheme}://bucket/folder")
    return connected(scheme, os.getpid()), name.rstrip("/")


@functools.cache
def connected(scheme: str, process: int) -> Any:
    """Connected once in each process: connections do not survive a fork."""
    package, extra = EXTRAS[scheme]
    try:
        return _google() if scheme == "gs" else _amazon()
    except ImportError as error:
        raise import_failed(
            error, f"{scheme}:// paths need {package}; install it with: {invocation.install(extra)}"
        ) from error


def prepare(path: str) -> None:
    """Prepares this process for libraries that connect on their own: Orbax, through gcsfs and TensorStore."""
    located(path)


def _google() -> Any:
    # Without lookups of zonal and hierarchical buckets, which go by gRPC; read when gcsfs is imported.
    os.environ.setdefault("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")
    if emulator := os.environ.get("STORAGE_EMULATOR_HOST"):
        address = emulator if "://" in emulator else f"http://{emulator}"
        os.environ.setdefault("TENSORSTORE_GCS_HTTP_URL", address)
        os.environ.setdefault("GOOGLE_AUTH_TOKEN_FOR_TESTING", "none")
    import aiohttp
    import fsspec.config
    import google.auth
    from gcsfs.core import GCSFileSystem

    # Of Orbax's own connection too: what other processes do is seen.
    fsspec.config.conf.setdefault("gcs", {})["use_listings_cache"] = False
    logging.getLogger("gcsfs").setLevel(logging.CRITICAL)  # it logs what we say in one sentence
    token: Any = "anon"
    if not os.environ.get("STORAGE_EMULATOR_HOST"):
        # Without credentials public buckets can still be read; the others answer 401, which says how to log in.
        with contextlib.suppress(google.auth.exceptions.DefaultCredentialsError):
            token, _ = google.auth.default(scopes=["https://www.googleapis.com/auth/devstorage.read_write"])
    # gcsfs has no limit of its own: a connection on which nothing more comes would be waited for without an end.
    limits = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS, sock_read=READ_SECONDS)
    store = GCSFileSystem(token=token, use_listings_cache=False, skip_instance_cache=True, requests_timeout=limits)
    once = getattr(type(store)._request, "__wrapped__", None)
    if once is not None:  # gcsfs tries again too, with pauses that ours would multiply
        store._request = functools.partial(once, store)
    return store


def _amazon() -> Any:
    from s3fs import S3FileSystem

    limits = {"connect_timeout": CONNECT_SECONDS, "read_timeout": READ_SECONDS, "retries": {"total_max_attempts": 1}}
    store = S3FileSystem(use_listings_cache=False, skip_instance_cache=True, config_kwargs=limits)
    store.retries = 1  # s3fs tries again too
    return store


class ObjectStat(NamedTuple):
    """Properties of an object in a store.

    version: changes whenever the object does. crc32c, md5: of its bytes, None where the store has none;
    md5_is_sure: S3's ETag is the md5 of most objects, but not of all.
    """

    size: int
    version: str
    crc32c: bytes | None = None
    md5: bytes | None = None
    md5_is_sure: bool = True


def parse_facts(found: dict[str, Any]) -> ObjectStat:
    etag = str(found.get("ETag") or found.get("etag") or "").strip('"')
    version = str(found.get("generation") or etag or found.get("created") or found.get("LastModified"))
    crc, md5 = found.get("crc32c"), found.get("md5Hash")
    if crc or md5:
        return ObjectStat(
            int(found["size"]), version, base64.b64decode(crc) if crc else None, base64.b64decode(md5) if md5 else None
        )
    is_md5 = len(etag) == 32 and all(digit in "0123456789abcdef" for digit in etag)
    return ObjectStat(int(found["size"]), version, None, bytes.fromhex(etag) if is_md5 else None, md5_is_sure=False)


class Check:
    """Computes size and checksum of a transfer as its blocks arrive.

    unsure: digests of earlier tries that differed from an uncertain md5; the same digest twice is accepted.
    """

    def __init__(self, known: ObjectStat, unsure: set[bytes]):
        self._known, self._unsure = known, unsure
        self._size = 0
        self._crc = google_crc32c.Checksum() if known.crc32c else None
        self._md5 = hashlib.md5(usedforsecurity=False) if known.md5 and not known.crc32c else None

    def add(self, data: bytes) -> None:
        self._size += len(data)
        for sum_ in (self._crc, self._md5):
            if sum_ is not None:
                sum_.update(data)

    def finish(self, path: str) -> None:
        known = self._known
        if self._size != known.size:
            raise Damaged(f"{path}: {self._size} of {known.size} bytes came")
        if self._crc is not None and self._crc.digest() != known.crc32c:
            raise Damaged(f"{path}: the bytes do not have the checksum of the object")
        if self._md5 is not None and self._md5.digest() != known.md5:
            digest = self._md5.digest()
            if not known.md5_is_sure and digest in self._unsure:
                return
            self._unsure.add(digest)
            raise Damaged(f"{path}: the bytes do not have the checksum of the object")
