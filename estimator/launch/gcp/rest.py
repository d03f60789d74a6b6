"""Calls Google's REST APIs: authenticates by google-auth, retries transient errors, explains the others.

An answer that may be another one a little later (429, 500, 502, 503, 504, a lost connection) is waited out, longer each
time and as long as the service asks for. All others become a `Refused` that says what to do. Every call that creates
carries a number of its own, so a repetition whose first answer was lost creates nothing twice.
"""

import os
import random
import re
import time
from collections.abc import Callable
from typing import Any, NamedTuple

from estimator import invocation
from estimator.errors import UserError, import_failed
from estimator.launch.interfaces import HostLost

SCOPE = "https://www.googleapis.com/auth/cloud-platform"
LOGIN = "gcloud auth application-default login"
TRIES = 8  # of a call: a little more than two minutes
LONGEST_PAUSE = 60.0
CALL_SECONDS = 60.0
OPERATION_SECONDS = 900.0
OPERATION_PAUSE = 3.0
PASSING = (429, 500, 502, 503, 504)
# Words of Google's errors, whatever the status that they come with.
RATE = re.compile(r"rate.?limit|per minute|per second|queries per", re.IGNORECASE)
QUOTA = re.compile(r"quota(?! ?project)|per ?project ?per|limit .*exceeded|exceeded .*limit", re.IGNORECASE)
CAPACITY = re.compile(r"resource_pool_exhausted|stockout|no more capacity|not enough resources|capacity", re.IGNORECASE)
BUSY = re.compile(r"resourceNotReady|resourceInUse|RESOURCE_IN_USE|RESOURCE_NOT_READY|ABORTED|operationInProgress")
QUOTA_FIX = (
    "the project's quota is too small: ask for more (console.cloud.google.com/iam-admin/quotas), take another zone "
    "(--tpu_zone), a smaller type, or --spot, which has a quota of its own"
)
STATUS_FIXES = {
    400: "this type may not be offered in this zone: take another one (--tpu_zone), or see docs/pods.md",
    401: f"run: {LOGIN}",
    403: "this account may not do that: it needs the roles TPU Admin and Compute Instance Admin, and Service Account "
    f"User, in the project; or take another account: {LOGIN}",
    404: "check --tpu_project and --tpu_zone",
    409: "the name is taken; take another name",
}
DISABLED = re.compile(r"accessNotConfigured|SERVICE_DISABLED|has not been used in project", re.IGNORECASE)


class Time(NamedTuple):
    """Clock and sleep; tests replace them."""

    now: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep


class Refused(UserError):
    """A permanent error. status: of HTTP; of an operation, or 0 where it has none. said: Google's message."""

    def __init__(self, message: str, *, status: int, said: str):
        super().__init__(message)
        self.status = status
        self.said = said

    @property
    def is_quota(self) -> bool:
        return is_quota(self.said)

    @property
    def is_capacity(self) -> bool:
        """Whether Google has no such machines at the moment."""
        return bool(CAPACITY.search(self.said)) and not self.is_quota

    @property
    def is_disabled(self) -> bool:
        """Whether the API is disabled in the project."""
        return bool(DISABLED.search(self.said))


class Unavailable(HostLost):
    """The service gave no useful answer for minutes; it may do so later."""


class Service:
    """One of Google's interfaces at `base`. emulator: the environment variable that names another address, which
    needs no credentials."""

    def __init__(self, base: str, *, emulator: str = "", at: Time | None = None):
        other = os.environ.get(emulator, "") if emulator else ""
        self.base = (other or base).rstrip("/")
        self.at = at or Time()
        self._anonymous = bool(other)
        self._session: Any = None

    def get(self, path: str, **parameters: Any) -> dict[str, Any]:
        return self.call("GET", path, parameters=parameters)

    def find(self, path: str) -> dict[str, Any] | None:
        """The resource, or None where it does not exist."""
        try:
            return self.get(path)
        except Refused as error:
            if error.status == 404:
                return None
            raise

    def all(self, path: str, key: str, **parameters: Any) -> list[dict[str, Any]]:
        """The items of all pages of a list."""
        found: list[dict[str, Any]] = []
        token = ""
        while True:
            page = self.get(path, **parameters, **({"pageToken": token} if token else {}))
            found += page.get(key, [])
            if not (token := page.get("nextPageToken", "")):
                return found

    def call(
        self, method: str, path: str, *, parameters: dict[str, Any] | None = None, body: Any = None
    ) -> dict[str, Any]:
        """The answer. Refused, Unavailable."""
        cause = ""
        for attempt in range(TRIES):
            asked_for = 0.0
            try:
                answer = self._send(method, path, parameters, body)
                if answer.ok:
                    return _json(answer)
                status, said = answer.status_code, _said(answer)
                if not _passes(status, said):
                    raise Refused(_advised(status, said, f"{method} {path}"), status=status, said=said)
                cause, asked_for = f"{status}: {said}", _asked_for(answer)
            except _Lost as error:
                cause = str(error)
            if attempt + 1 < TRIES:
                self.at.sleep(max(asked_for, random.uniform(0.5, 1) * min(LONGEST_PAUSE, 2.0**attempt)))
        raise Unavailable(f"{self.base} does not answer as it should, {TRIES} times in a row ({cause})")

    def wait(self, operation: dict[str, Any], path: str) -> dict[str, Any]:
        """The operation when it is done, read again and again at `path`. Refused where it failed."""
        until = self.at.now() + OPERATION_SECONDS
        while not (operation.get("done") or operation.get("status") == "DONE"):
            if self.at.now() > until:
                raise Unavailable(f"{path}: not done after {OPERATION_SECONDS / 60:.0f} minutes")
            self.at.sleep(OPERATION_PAUSE)
            operation = self.get(path)
        if error := operation.get("error"):
            errors = error.get("errors") or [error]
            said = "; ".join(f"{each.get('code', '')}: {each.get('message', '')}" for each in errors)
            status = int(operation.get("httpErrorStatusCode") or 0)
            raise Refused(_advised(status, said, path), status=status, said=said)
        return operation

    def _send(self, method: str, path: str, parameters: dict[str, Any] | None, body: Any) -> Any:
        if self._session is None:
            self._session = _session(anonymous=self._anonymous)
        import google.auth.exceptions
        import requests

        try:
            return self._session.request(
                method, f"{self.base}/{path}", params=parameters or None, json=body, timeout=CALL_SECONDS
            )
        except google.auth.exceptions.RefreshError as error:
            raise UserError(f"Google does not accept these credentials any more ({error}); run: {LOGIN}") from None
        except (google.auth.exceptions.TransportError, requests.exceptions.RequestException) as error:
            raise _Lost(str(error)) from None


class _Lost(Exception):
    """No answer came."""


def _session(*, anonymous: bool) -> Any:
    try:
        import google.auth
        import google.auth.credentials
        import google.auth.exceptions
        from google.auth.transport.requests import AuthorizedSession
    except ImportError as error:
        raise import_failed(
            error,
            f"--tpu NAME of Google Cloud needs google-auth: {invocation.install('gcs')} (which workers get too)",
        ) from error
    if anonymous:
        session = AuthorizedSession(google.auth.credentials.AnonymousCredentials())
        session.trust_env = False  # an emulator on this machine is not behind a proxy
        return session
    try:
        credentials, _ = google.auth.default(scopes=[SCOPE])
    except google.auth.exceptions.DefaultCredentialsError:
        raise UserError(
            f"no credentials of Google Cloud on this machine; run: {LOGIN} (or name a service account's file in "
            "GOOGLE_APPLICATION_CREDENTIALS)"
        ) from None
    return AuthorizedSession(credentials)


def is_quota(said: str) -> bool:
    """Whether Google's words are about how many machines a project may have, which waiting does not change."""
    return bool(QUOTA.search(said)) and not RATE.search(said)


def _passes(status: int, said: str) -> bool:
    """Whether the same call may succeed later."""
    if is_quota(said):
        return False
    if status in PASSING:
        return True
    return (status == 403 and bool(RATE.search(said))) or (status in (400, 409, 412) and bool(BUSY.search(said)))


def _asked_for(answer: Any) -> float:
    """Seconds that the service asks to wait."""
    after = answer.headers.get("Retry-After", "")
    return min(LONGEST_PAUSE, float(after)) if after.isdigit() else 0.0


def _json(answer: Any) -> dict[str, Any]:
    try:
        values = answer.json() if answer.content else {}
    except ValueError:
        values = None
    if not isinstance(values, dict):
        raise Unavailable(f"{answer.url}: the answer is not one of Google's; is there a proxy in between?")
    return values


def _said(answer: Any) -> str:
    """Reasons and message of an error, in one line."""
    try:
        error = answer.json()["error"]
        reasons = [each.get("reason", "") for each in error.get("errors", []) + error.get("details", [])]
        words = [error.get("status", ""), *reasons]
        return f"{error.get('message', '')} ({', '.join(dict.fromkeys(filter(None, words)))})"
    except (ValueError, KeyError, TypeError, AttributeError):
        return answer.text[:200].strip() or str(answer.reason)


def _advised(status: int, said: str, what: str) -> str:
    said = " ".join(said.split())
    if DISABLED.search(said):
        fix = "enable the interface: gcloud services enable compute.googleapis.com tpu.googleapis.com"
    elif is_quota(said):
        fix = QUOTA_FIX
    elif "quota project" in said:
        fix = "say which project pays for the calls: gcloud auth application-default set-quota-project PROJECT"
    else:
        fix = STATUS_FIXES.get(status, "see docs/pods.md")
    return f"Google Cloud refused {what}: {f'{status}: ' if status else ''}{said}; {fix}"
