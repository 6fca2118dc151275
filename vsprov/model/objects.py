"""The objects of a manifest as frozen values with all defaults filled in, and the kinds of object.

`fields.write(spec)` returns the canonical `spec`, which is valid in a manifest and which marks, diffs and
`get` are made from.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping
from typing import Any

from msgspec import Struct

from vsprov.model import fields
from vsprov.model.fields import Section, mapping, value
from vsprov.model.kinds.image import Image
from vsprov.model.kinds.network import Network
from vsprov.model.kinds.quota import Quota
from vsprov.model.kinds.server import Server
from vsprov.model.kinds.volume import Volume
from vsprov.model.values import patterns

API_VERSION = "vsprov/v1"
IGNORE = "vsprov/ignore"
REQUIRE = "vsprov/require"
DELETION, PREVENT = "vsprov/deletion", "prevent"

Spec = Image | Quota | Network | Volume | Server


class ObjectKind(Struct, frozen=True):
    """A kind of object that a manifest can describe.

    `doc` describes it and `keys_doc` introduces its keys in the reference. `costs`: its keys have costs,
    because a change may disturb something that runs. `kept`: destroy and --prune keep its objects, unless
    their removal is requested explicitly.
    """

    name: str
    spec: type[Any]
    doc: str
    keys_doc: str = "The keys of its `spec`:"
    costs: bool = False
    kept: bool = False

    @property
    def word(self) -> str:
        """The kind on the command line: "server"."""
        return self.name.lower()

    @property
    def plural(self) -> str:
        return f"{self.word}s"


# Each after the kinds that its own objects refer to.
KINDS: dict[str, ObjectKind] = {
    kind.name: kind
    for kind in (
        ObjectKind(
            "Image",
            Image,
            "A root file system shared by servers. Each server writes to its own layer on top of it.",
        ),
        ObjectKind(
            "Quota",
            Quota,
            "A named set of resources, for each server that names it or shared by all of them.",
            "The keys of its `spec`, besides the [resources](#resources):",
        ),
        ObjectKind(
            "Network",
            Network,
            "A network that servers are connected to.",
        ),
        ObjectKind(
            "Volume",
            Volume,
            "A directory for files that outlive servers, and that several servers can share.",
            kept=True,
        ),
        ObjectKind(
            "Server",
            Server,
            "A virtual server.",
            "The keys of its `spec`, and the cost of changing each for a running server:",
            costs=True,
        ),
    )
}


def prevents_deletion(annotations: Mapping[str, str]) -> bool:
    """Whether annotations say that their object must not be removed."""
    return annotations.get(DELETION) == PREVENT


def require_rows(rows: Container[str], place: str) -> None:
    """TypeError if a kind has no row in the registry at `place`: its objects would be silently ignored."""
    if missing := [kind for kind in KINDS if kind not in rows]:
        raise TypeError(f"no row of {place} is for {', '.join(missing)}")


def listed() -> list[ObjectKind]:
    """The kinds in the order in which people are shown their objects: servers first."""
    return sorted(KINDS.values(), key=lambda kind: kind.name != "Server")


def read_spec(kind: str, raw: Mapping[str, Any], report: fields.Report = fields.fail) -> Spec | None:
    """The spec of an object from JSON that passed its schema; `report` and None as in `fields.read`."""
    return fields.read(KINDS[kind].spec, raw, report)


class Object(Section):
    """A named object of a manifest."""

    kind: str = value(doc="Kind of the object.")
    name: str = value(doc="Name of the object, unique among objects of its kind.", schema=patterns.NAME)
    spec: Spec = value(doc="Desired state of the object.")
    labels: Mapping[str, str] = mapping(
        doc="Key-value pairs to select objects by.", schema=patterns.LABELS, cost="live"
    )
    annotations: Mapping[str, str] = mapping(
        doc=f"Arbitrary notes. {IGNORE}: knobs that vsprov does not manage, separated by commas. "
        f"{REQUIRE}: hard makes unsupported settings an error. {DELETION}: {PREVENT} makes "
        "a plan that would remove the object, or the files of a server, an error.",
        schema=patterns.ANNOTATIONS,
        cost="live",
    )

    renamed_from: str | None = value(
        None,
        doc="The name that a server or volume had before. Its files are kept, and the IDs and addresses of a "
        "server. A running server is restarted if it gets another name, not if its volumes do. The key has "
        "no effect once the object has its new name.",
        schema=patterns.NAME,
    )

    @property
    def address(self) -> str:
        return f"{self.kind}/{self.name}"


def few(names: Iterable[str], kind: str = "Server") -> str:
    """The addresses of objects in a message, of three at most: "Server/a, Server/b, Server/c and 2 more"."""
    found = [f"{kind}/{name}" for name in sorted(names)]
    return ", ".join(found[:3]) + (f" and {len(found) - 3} more" if len(found) > 3 else "")
