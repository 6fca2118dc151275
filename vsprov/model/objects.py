"""The objects of a manifest: Image, Quota, Server, as frozen values with every default filled in.

`fields.write(obj)` is the object's canonical `spec`: valid in a manifest, and what marks, diffs and `get` are
made of.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from vsprov.model import fields, patterns
from vsprov.model.fields import many, mapping, one, strings, value
from vsprov.model.kinds import BYTES, DURATION
from vsprov.model.names import (
    CAPABILITIES,
    DEFAULT_CAPABILITIES,
    parse_capabilities,
    parse_signal,
    parse_user,
)
from vsprov.model.resources import knobs
from vsprov.model.sources import ImageLimits, Source

API_VERSION = "vsprov/v1"
IGNORE = "vsprov/ignore"
REQUIRE = "vsprov/require"


@dataclass(frozen=True, slots=True, kw_only=True)
class Init:
    """What runs as pid 1. Style `exec`: the command itself, or below a reaper.

    Where the image brings a command, variables, a directory, a user or a stop signal of its own, those hold
    as far as these are absent: `defaults.init_of`. `args` come after the command, in place of the image's.
    """

    command: tuple[str, ...] = strings(
        doc="The program and its arguments; looked up on PATH inside the server. The image's own if absent.",
        schema={"items": patterns.TEXT, "minItems": 1},
    )
    args: tuple[str, ...] = strings(
        doc="Arguments after the command; without a command, after the image's entrypoint.",
        schema={"items": patterns.TEXT},
    )
    style: Literal["exec"] = value("exec", doc="How the server runs: exec makes the command its pid 1.")
    env: Mapping[str, str] = mapping(
        doc="Environment variables of the command, besides those of the image.", schema=patterns.VARIABLES
    )
    working_dir: str | None = value(
        None, doc="Where the command starts; where the image says, or /, if absent.", schema=patterns.ABSOLUTE
    )
    user: str | None = value(
        None,
        doc="Who runs the command: UID, UID:GID, or names in the image's passwd and group files. Whom the "
        "image says, or root, if absent.",
        schema=patterns.NAME_OR_NUMBER,
        parse=parse_user,
    )
    reaper: bool = value(
        False, doc="Put a small init before the command that reaps orphans and passes signals on."
    )
    stop_signal: str | None = value(
        None,
        doc="The signal that asks the command to end: TERM, INT, RTMIN+3, … The image's, or TERM, if absent.",
        schema=patterns.NAME_OR_NUMBER,
        parse=parse_signal,
        cost="live",
    )
    stop_timeout: int = value(
        10_000_000,
        doc="How long a server may take to end before it is killed.",
        kind=DURATION,
        cost="live",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Mount:
    """A mount at `target`. `id_map`: the guest's root owns what the host's does, if the file system can."""

    type: Literal["bind", "tmpfs"] = value(
        doc="bind shows a path of the host; tmpfs is memory, empty at each start."
    )
    target: str = value(doc="Where in the server; made when it is missing.", schema=patterns.ABSOLUTE)
    source: str | None = value(
        None, doc="For bind: the host's folder or file.", schema=patterns.ABSOLUTE, only=("type", "bind")
    )
    read_only: bool = value(False, doc="Refuse writes, to what is mounted below as well.")
    recursive: bool = value(
        True, doc="For bind: with what is mounted below the source.", only=("type", "bind")
    )
    id_map: bool = value(
        True,
        doc="For bind: the server's root owns what the host's root owns, if the file system can.",
        only=("type", "bind"),
    )
    size: int | None = value(
        None,
        doc="For tmpfs: the most it may hold; absent, half of the memory.",
        kind=BYTES,
        only=("type", "tmpfs"),
    )
    mode: str = value(
        "1777",
        doc="For tmpfs: the permissions of its root, in octal and quotes.",
        schema=patterns.file_mode("1777"),
        only=("type", "tmpfs"),
    )


_CAPABILITIES = {"items": {"type": "string", "examples": list(CAPABILITIES)}}


@dataclass(frozen=True, slots=True, kw_only=True)
class CapabilityChange:
    add: tuple[str, ...] = value(
        (),
        doc="Capabilities to keep besides the default, by name, without CAP_.",
        schema=_CAPABILITIES,
        parse=parse_capabilities,
        dump=list,
    )
    drop: tuple[str, ...] = value(
        (),
        doc="Capabilities of the default to take away.",
        schema=_CAPABILITIES,
        parse=parse_capabilities,
        dump=list,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Security:
    user_namespace: Literal["auto"] = value(
        "auto", doc="auto: a range of 65536 ids of its own; the server's root is nobody outside."
    )
    capabilities: CapabilityChange = one(
        CapabilityChange,
        CapabilityChange(),
        doc=f"Changes to the default: {', '.join(sorted(DEFAULT_CAPABILITIES))}.",
    )
    no_new_privileges: bool = value(
        True, doc="Programs cannot gain rights by setuid or file capabilities (PR_SET_NO_NEW_PRIVS)."
    )
    read_only_root: bool = value(
        False, doc="The server cannot write to its root; mounts stay as they are declared."
    )

    def kept(self) -> tuple[str, ...]:
        """The bounding set, sorted: the default, with `add`, without `drop`."""
        return tuple(
            sorted((DEFAULT_CAPABILITIES | set(self.capabilities.add)) - set(self.capabilities.drop))
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Dependency:
    name: str = value(doc="The other server.", schema=patterns.NAME, refers="Server")
    condition: Literal["started"] = value(
        "started", doc="What must be true of it. started: its command runs."
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """A virtual server as wanted.

    `resources` is complete: a quota of scope server is merged in; `quota` names a pool.
    """

    image: str = value(
        doc="The Image whose files the server starts from.",
        schema=patterns.NAME,
        refers="Image",
        cost="restart",
    )
    quota: str | None = value(
        None,
        doc="The Quota whose resources the server gets, or shares with others when it is a pool.",
        schema=patterns.NAME,
        refers="Quota",
        cost="restart",  # another parent group: the root of the guest's cgroup namespace cannot be moved
    )
    resources: Mapping[str, Any] = knobs(
        doc="Resources of this server; each wins over the same key of a quota of scope server.", cost="live"
    )
    state: Literal["Running", "Stopped"] = value("Running", doc="Whether the server is to run.", cost="none")
    hostname: str = value(
        doc="The server's own host name; its name if absent.",
        schema=patterns.HOSTNAME,
        required=False,
        cost="live",
    )
    init: Init = one(Init, Init(), doc="What runs in the server.", cost="restart")
    mounts: tuple[Mount, ...] = many(
        Mount,
        by="target",
        doc="Further mounts, each at its own target.",
        schema={"maxItems": 256},
        cost="restart",
    )
    security: Security = one(Security, Security(), doc="What the server's root may do.", cost="restart")
    depends_on: tuple[Dependency, ...] = many(
        Dependency,
        by="name",
        doc="Servers that start before this one and stop after it.",
        schema={"maxItems": 256},
        cost="live",
    )
    ephemeral: bool = value(
        False, doc="What the server wrote to its root is thrown away when it stops.", cost="recreate"
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Quota:
    """Resources with a name.

    Scope `server`: each server that names it gets them; `pool`: they share one parent group.
    """

    scope: Literal["server", "pool"] = value(
        "server", doc="server: each server that names the quota gets this much. pool: they share this much."
    )
    resources: Mapping[str, Any] = knobs(doc="What it gives.", inline=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Image:
    source: Source = one(
        Source,
        doc="Where the image comes from: exactly one of host, directory, tar, oci, bootstrap, build.",
    )
    limits: ImageLimits = one(ImageLimits, ImageLimits(), doc="The most that the image may hold.")


Spec = Image | Quota | Server
SPECS: Mapping[str, type[Spec]] = {"Image": Image, "Quota": Quota, "Server": Server}
KINDS = tuple(SPECS)


def read_spec(kind: str, raw: Mapping[str, Any], report: fields.Report = fields.fail) -> Spec | None:
    """The object of a spec its schema has accepted; None when something needed was unreadable (reported)."""
    return fields.read(SPECS[kind], raw, report)


@dataclass(frozen=True, slots=True, kw_only=True)
class Object:
    """A named object of a manifest."""

    kind: Literal["Image", "Quota", "Server"] = value(doc="What the document describes.")
    name: str = value(doc="The object's name, unique among its kind.", schema=patterns.NAME)
    spec: Spec = value(doc="What is wanted of it.")
    labels: Mapping[str, str] = mapping(doc="Words to select by.", schema=patterns.LABELS, cost="live")
    annotations: Mapping[str, str] = mapping(
        doc=f"Notes. {IGNORE} lists knobs, joined by commas, that vsprov leaves as they are. "
        f"{REQUIRE}: hard makes it an error when the host cannot do all that is asked.",
        schema=patterns.ANNOTATIONS,
        cost="live",
    )

    @property
    def address(self) -> str:
        return f"{self.kind}/{self.name}"
