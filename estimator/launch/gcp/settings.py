"""Where in Google Cloud a NAME is, and how its machines are reached: from flags, environment, gcloud's files.

gcloud itself is not needed; what `gcloud config set` has written is read.
"""

import configparser
import itertools
import os
import shlex
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from estimator.errors import UserError

PROJECT = ("CLOUDSDK_CORE_PROJECT", "GOOGLE_CLOUD_PROJECT")
ZONE = ("CLOUDSDK_COMPUTE_ZONE",)
HOW = "--tpu_project and --tpu_zone, or gcloud config set project and gcloud config set compute/zone"
KEY = "~/.ssh/google_compute_engine"  # the one that gcloud makes


@dataclass(frozen=True)
class Cloud:
    """project, zone: "" where nothing tells. ssh: further arguments of ssh. internal: no external addresses."""

    project: str = ""
    zone: str = ""
    ssh: str = ""
    internal: bool = False

    @property
    def region(self) -> str:
        return self.zone.rpartition("-")[0]

    @property
    def named(self) -> bool:
        """Whether it says where to look."""
        return bool(self.project and self.zone)

    def stored(self) -> dict[str, Any]:
        return asdict(self)


def configured(
    *,
    project: str | None = None,
    zone: str | None = None,
    ssh: str | None = None,
    internal: bool = False,
    environment: Mapping[str, str] = os.environ,
) -> Cloud:
    """Arguments take precedence over the environment, and that over gcloud's files."""
    files = _gcloud(environment)
    project = project or _first(environment, PROJECT) or files.get("core", "project", fallback="")
    zone = zone or _first(environment, ZONE) or files.get("compute", "zone", fallback="")
    for name, value in (("--tpu_project", project), ("--tpu_zone", zone)):
        if not all(part.isalnum() for part in value.replace(":", "-").replace(".", "-").split("-")) and value:
            raise UserError(f"{name}: {value!r} is not a name of Google Cloud")
    if zone and zone.count("-") != 2:
        raise UserError(f"--tpu_zone: {zone!r} is not a zone; write it as in us-east5-b")
    try:
        shlex.split(ssh or "")
    except ValueError as error:
        raise UserError(f"--tpu_ssh: {ssh!r}: {error}") from None
    return Cloud(project, zone, ssh or "", internal)


def ssh_arguments(cloud: Cloud) -> list[str]:
    """The order, with the key that gcloud made where it exists and no other is named."""
    given = shlex.split(cloud.ssh)
    named = any(part.startswith("-i") or "IdentityFile" in part for part in given)
    key = Path(os.path.expanduser(KEY))
    return given + (["-i", str(key)] if key.exists() and not named else [])


def public_key(cloud: Cloud) -> tuple[str, str]:
    """(user, public key) that may log in to a new machine. Raises UserError where there is no key."""
    given = ssh_arguments(cloud)
    named = [after for before, after in itertools.pairwise(given) if before == "-i"]
    users = [after for before, after in itertools.pairwise(given) if before == "-l"]
    paths = [f"{path}.pub" for path in named] or ["~/.ssh/id_ed25519.pub", "~/.ssh/id_ecdsa.pub", "~/.ssh/id_rsa.pub"]
    for path in paths:
        if (file := Path(os.path.expanduser(path))).exists():
            user = users[0] if users else os.environ.get("USER") or Path(os.path.expanduser("~")).name
            return user, " ".join(file.read_text(encoding="utf-8").split()[:2])
    raise UserError(
        f"no key of ssh that a new machine could let in ({', '.join(paths)}); make one with ssh-keygen -t ed25519, or "
        'name one: --tpu_ssh "-i FILE"'
    )


def _first(environment: Mapping[str, str], names: tuple[str, ...]) -> str:
    return next((environment[name] for name in names if environment.get(name)), "")


def _gcloud(environment: Mapping[str, str]) -> configparser.ConfigParser:
    """gcloud's active configuration, or an empty one."""
    folder = Path(environment.get("CLOUDSDK_CONFIG") or os.path.expanduser("~/.config/gcloud"))
    name = environment.get("CLOUDSDK_ACTIVE_CONFIG_NAME", "")
    parser = configparser.ConfigParser(interpolation=None)
    try:
        name = name or (folder / "active_config").read_text(encoding="utf-8").strip()
    except OSError:
        name = "default"
    path = folder / "configurations" / f"config_{name}"
    try:
        parser.read(path, encoding="utf-8")
    except configparser.Error as error:
        raise UserError(f"{path}: gcloud's settings cannot be read: {error}") from None
    return parser
