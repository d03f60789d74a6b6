"""Retries transient storage errors; turns the rest into one-line user errors.

The libraries below (gcsfs, s3fs, aiohttp, google-auth, botocore) are optional and have no common kind of error, so
errors are classified by the names of their classes and by their codes.
"""

import errno
import math
import os
import random
import sys
import time
from collections.abc import Callable
from typing import TypeVar

from estimator.errors import UserError

# How long one operation is tried again, in seconds, and the pauses between two tries: doubled each time, with jitter
# so that the hosts of a pod do not all retry at the same moment. A service that has not answered yet is more likely out
# of reach than in trouble, and somebody waits for the command that has just begun.
SECONDS = "GPT2_STORAGE_SECONDS"
DEFAULT_SECONDS = 180.0
UNANSWERED_SECONDS = 12.0
FIRST_PAUSE, LONGEST_PAUSE = 0.2, 20.0
QUIET_TRIES = 3  # after these, a line says that something is being waited for
Result = TypeVar("Result")

_TRANSIENT_CODES = {"408", "429", "500", "502", "503", "504"}
_TRANSIENT_AWS = {"InternalError", "RequestTimeout", "RequestTimeTooSkewed", "ServiceUnavailable", "SlowDown"}
_TRANSIENT_ERRNO = {errno.EBUSY, errno.EAGAIN, errno.ECONNRESET, errno.ECONNREFUSED, errno.ETIMEDOUT, errno.EPIPE}
# Names of classes: of the error or of one of its bases.
_TRANSIENT = {
    "aiohttp.client_exceptions.ClientConnectionError",
    "aiohttp.client_exceptions.ClientPayloadError",
    "aiohttp.http_exceptions.HttpProcessingError",
    "asyncio.exceptions.TimeoutError",
    "botocore.exceptions.ConnectionError",
    "botocore.exceptions.HTTPClientError",
    "botocore.exceptions.IncompleteReadError",
    "botocore.exceptions.FlexibleChecksumError",
    "builtins.ConnectionError",
    "builtins.TimeoutError",
    "fsspec.exceptions.FSTimeoutError",
    "gcsfs.retry.ChecksumError",
    "google.auth.exceptions.TransportError",
    "json.decoder.JSONDecodeError",  # of an answer that was cut off
    "requests.exceptions.ConnectionError",
    "requests.exceptions.ChunkedEncodingError",
    "requests.exceptions.Timeout",
}
_NO_CREDENTIALS = {
    "botocore.exceptions.NoCredentialsError",
    "botocore.exceptions.PartialCredentialsError",
    "botocore.exceptions.TokenRetrievalError",
    "google.auth.exceptions.DefaultCredentialsError",
    "google.auth.exceptions.RefreshError",
}
LOG_IN = {
    "gs": "run `gcloud auth application-default login`, or point GOOGLE_APPLICATION_CREDENTIALS at a key file",
    "s3": "run `aws configure`, or set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
}


class Damaged(Exception):
    """A transfer was too short, or has another checksum than the stored object. Retried like a lost connection."""


class Missing(UserError, FileNotFoundError):
    """There is no such object, or no such bucket."""


def retried(path: str, operation: Callable[[], Result]) -> Result:
    """Runs the operation and retries transient errors for a while; raises any other as a UserError that names `path`.

    Raises Missing (a FileNotFoundError too) where there is no object.
    """
    started, tries = time.monotonic(), 0
    while True:
        try:
            result = operation()
            _answered()
            return result
        except UserError:
            raise
        except Exception as error:  # the libraries' errors have no narrower class in common
            tries += 1
            if not is_transient(error) or _code(error) is not None:
                _answered()
            if not is_transient(error):
                raise _explained(path, error) from error
            limit = _limit()
            pause = random.uniform(0.5, 1.0) * min(LONGEST_PAUSE, FIRST_PAUSE * 2 ** (tries - 1))
            if time.monotonic() - started + pause > limit:
                count = "1 try" if tries == 1 else f"{tries} tries"
                raise UserError(
                    f"{path}: the storage service did not answer properly in {count} over "
                    f"{time.monotonic() - started:.0f} seconds: {_short(error)}; run the same command again when the "
                    f"network or the service is well ({SECONDS} sets how long it is tried)"
                ) from error
            if tries > QUIET_TRIES:
                print(f"{path}: {_short(error)}; trying again in {pause:.0f} s", file=sys.stderr, flush=True)
            time.sleep(pause)


def _limit() -> float:
    """How long an operation is tried, in seconds."""
    text = os.environ.get(SECONDS) or str(UNANSWERED_SECONDS)
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if math.isnan(seconds):
        raise UserError(f"{SECONDS}={text}: not a number of seconds; write one, such as 180")
    return seconds


def _answered() -> None:
    """Makes this process, and those that it starts, wait for the end of an outage from now on.

    It is kept in the environment because workers, trials and servers that are started from here inherit nothing else.
    """
    os.environ.setdefault(SECONDS, str(DEFAULT_SECONDS))


def is_transient(error: BaseException) -> bool:
    """Whether the same request may succeed in a while."""
    if isinstance(error, Damaged):
        return True
    names = _names(error)
    if names & _NO_CREDENTIALS:
        return bool(getattr(error, "retryable", False))
    code = _code(error)
    if code is not None:
        return code in _TRANSIENT_CODES or code in _TRANSIENT_AWS
    if "builtins.FileNotFoundError" in names or "builtins.PermissionError" in names:
        return False
    return bool(names & _TRANSIENT) or (isinstance(error, OSError) and error.errno in _TRANSIENT_ERRNO)


def _names(error: BaseException) -> set[str]:
    return {f"{kind.__module__}.{kind.__qualname__}" for kind in type(error).__mro__}


def _code(error: BaseException) -> str | None:
    """The HTTP status, or the code that S3 gives, where the error has one."""
    response = getattr(error, "response", None) or getattr(error.__cause__, "response", None)  # s3fs translates
    if isinstance(response, dict):  # of botocore
        status = str(response.get("ResponseMetadata", {}).get("HTTPStatusCode", ""))
        return status if status in _TRANSIENT_CODES else str(response.get("Error", {}).get("Code", status))
    code = getattr(error, "code", None) or getattr(error, "status", None)
    if "gcsfs.retry.HttpError" in _names(error) or "aiohttp.client_exceptions.ClientResponseError" in _names(error):
        return str(code)
    return None


def _explained(path: str, error: Exception) -> UserError:
    """The error as one sentence with its fix."""
    scheme, _, rest = path.partition("://")
    bucket = f"{scheme}://{rest.partition('/')[0]}"
    names, code = _names(error), _code(error)
    log_in = LOG_IN.get(scheme, "check the credentials")
    if names & _NO_CREDENTIALS or code == "401":
        return UserError(f"{path}: no valid credentials for {bucket}; {log_in}")
    forbidden = "builtins.PermissionError" in names or code in ("403", "AccessDenied", "InvalidAccessKeyId")
    if forbidden or (isinstance(error, OSError) and str(error).startswith("Forbidden")):
        return UserError(
            f"{path}: permission denied; ask the owner of {bucket} to let this account read and write objects in it, "
            f"or use another account: {log_in}"
        )
    if isinstance(error, FileNotFoundError) or code in ("404", "NoSuchKey", "NoSuchBucket"):
        return Missing(f"{path}: no such object, or no bucket {bucket}; check the spelling, or make the bucket first")
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return UserError(f"{path}: no space is left on this machine for a copy; free some, or set GPT2_CACHE")
    return UserError(f"{path}: the storage service refused: {_short(error)}; check the path and the bucket's settings")


def _short(error: BaseException) -> str:
    text = next((line for line in str(error).splitlines() if line.strip()), "")
    text = f"{type(error).__name__}: {text}" if text else type(error).__name__
    return text if len(text) <= 200 else f"{text[:200]}..."
