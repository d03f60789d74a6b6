"""Records what this machine creates in Google Cloud: a JSON file each, written before the first call that creates.

After a kill at any moment, the next launcher knows all that may exist, finds it by its token, and can continue with it
or delete it. The file is removed when all of it is gone.
"""

import secrets
import uuid
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path

from estimator import format_version, json_text, storage
from estimator.errors import UserError
from estimator.launch.run_store import root

LABEL = "gpt2-creation"  # of machines, with the token as its value


@dataclass(frozen=True)
class Creation:
    """Workers that we create, or have created.

    api: compute or tpu. kind: of slice, such as v6e-16. token: in labels and names, so that nothing of another creator
    is taken for ours. resources: all that is created, in this order, each by its path. complete: every call that
    creates was answered. network: NETWORK or NETWORK/SUBNETWORK. key: USER:PUBLIC KEY that machines let in.
    """

    name: str
    api: str
    project: str
    zone: str
    kind: str
    spot: bool = False
    image: str = ""
    network: str = ""
    internal: bool = False
    ssh: str = ""
    key: str = ""
    token: str = field(default_factory=lambda: secrets.token_hex(4))
    resources: tuple[str, ...] = ()
    complete: bool = False

    @property
    def label(self) -> dict[str, str]:
        return {LABEL: self.token}

    def request(self, resource: str) -> str:
        """The number of the call that creates a resource: the same however often it is repeated."""
        return str(uuid.uuid5(uuid.NAMESPACE_URL, f"{self.token} {resource}"))

    @property
    def path(self) -> Path:
        return _path(self.name)

    def save(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        storage.write_json_atomic(self.path, format_version.stamped(asdict(self)))

    def forget(self) -> None:
        self.path.unlink(missing_ok=True)


def recorded(name: str) -> Creation | None:
    """The creation under a name, even if it may not have happened."""
    path = _path(name)
    try:
        values = json_text.loads(path.read_text(encoding="utf-8"))
        format_version.check(values, path)
        known = {item.name: values[item.name] for item in fields(Creation)}
        return Creation(**known | {"resources": tuple(known["resources"])})
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (ValueError, TypeError, KeyError):
        raise UserError(
            f"{path} is damaged; it recorded the creation of {name}: look for it in the Google Cloud console, as it "
            "may cost money, and then move this file elsewhere"
        ) from None


def names() -> list[str]:
    return sorted(path.stem for path in (root() / "created").glob("*.json"))


def _path(name: str) -> Path:
    return root() / "created" / f"{name.replace('/', '_')}.json"
