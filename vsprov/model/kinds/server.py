"""The spec of a server: image, resources, init, mounts and privileges."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from vsprov.model.fields import many, mapping, one, strings, value
from vsprov.model.kinds.network import Dns, Firewall, Interface, Port, expand_port, port_text
from vsprov.model.limits.resources import knobs
from vsprov.model.values import patterns
from vsprov.model.values.names import (
    CAPABILITIES,
    DEFAULT_CAPABILITIES,
    parse_capabilities,
    parse_signal,
    parse_user,
)
from vsprov.model.values.ports import SHORT_PORT
from vsprov.model.values.value_kinds import BYTES, DURATION


@dataclass(frozen=True, slots=True, kw_only=True)
class Init:
    """What runs as PID 1: the command itself or, with `reaper`, a small init that runs it.

    Keys that are not set default to those of the image, see `defaults.init_of`.
    """

    command: tuple[str, ...] = strings(
        doc="The program and its arguments, looked up in PATH inside the server. Defaults to the image's "
        "entrypoint and command.",
        schema={"items": patterns.TEXT, "minItems": 1},
    )
    args: tuple[str, ...] = strings(
        doc="Arguments appended to command, or to the image's entrypoint if command is not set.",
        schema={"items": patterns.TEXT},
    )
    style: Literal["exec"] = value(
        "exec", doc="How the command runs. exec: the command is PID 1 of the server."
    )
    env: Mapping[str, str] = mapping(
        doc="Environment variables for the command, in addition to those of the image.",
        schema=patterns.VARIABLES,
    )
    working_dir: str | None = value(
        None,
        doc="Working directory of the command, created if absent. Defaults to the image's, or /.",
        schema=patterns.ABSOLUTE,
    )
    user: str | None = value(
        None,
        doc="User that runs the command: UID, UID:GID, or names from the image's passwd and group files. "
        "Defaults to the image's user, or root.",
        schema=patterns.NAME_OR_NUMBER,
        parse=parse_user,
    )
    reaper: bool = value(
        False,
        doc="Run a small init as PID 1 that reaps orphaned processes and forwards signals to the command.",
    )
    oneshot: bool = value(
        False,
        doc="The command is meant to end. Once it has ended with exit code 0, the server is as it should be; "
        "it runs again when a change requires a restart.",
        cost="live",
    )
    stop_signal: str | None = value(
        None,
        doc="Signal that asks the command to stop: TERM, INT, RTMIN+3, … Defaults to the image's, or TERM.",
        schema=patterns.NAME_OR_NUMBER,
        parse=parse_signal,
        cost="live",
    )
    stop_timeout: int = value(
        10_000_000,
        doc="Time to wait for the server to stop before it is killed.",
        kind=DURATION,
        cost="live",
    )


def _parse_id_map(raw: Any) -> str:
    return {True: "host", False: "none"}[raw] if isinstance(raw, bool) else str(raw)


@dataclass(frozen=True, slots=True, kw_only=True)
class Mount:
    type: Literal["bind", "tmpfs"] = value(
        doc="bind: a file or directory of the host. tmpfs: a file system in memory, empty at each start."
    )
    target: str = value(doc="Mount point in the server. Created if missing.", schema=patterns.ABSOLUTE)
    source: str | None = value(
        None,
        doc="For bind: the file or directory on the host.",
        schema=patterns.ABSOLUTE,
        only=("type", "bind"),
    )
    read_only: bool = value(False, doc="Mount read-only, including the mounts below.")
    recursive: bool = value(True, doc="For bind: include the mounts below the source.", only=("type", "bind"))
    id_map: Literal["auto", "host", "none"] = value(
        "auto",
        doc="For bind: how user and group IDs are mapped, if the file system supports idmapped mounts. "
        "auto: the owner of the source is root in the server, and files of the server's other users are "
        "stored with IDs of its range; a source that root owns is mapped as with host, and refused if it is "
        "writable and other users of the host can reach it. host: IDs are the same as on the host, so the "
        "server's root can create setuid-root programs in a writable source. none: files are stored with IDs "
        "of the server's range. true means host, false means none.",
        schema={"type": ["string", "boolean"], "enum": ["auto", "host", "none", True, False]},
        parse=_parse_id_map,
        only=("type", "bind"),
    )
    size: int | None = value(
        None,
        doc="For tmpfs: maximum size. Defaults to half of the memory.",
        kind=BYTES,
        only=("type", "tmpfs"),
    )
    mode: str = value(
        "1777",
        doc="For tmpfs: permissions of its root directory, in octal, quoted.",
        schema=patterns.file_mode("1777"),
        only=("type", "tmpfs"),
    )


_CAPABILITIES = {"items": {"type": "string", "examples": list(CAPABILITIES)}}


@dataclass(frozen=True, slots=True, kw_only=True)
class CapabilityChange:
    add: tuple[str, ...] = value(
        (),
        doc="Capabilities to keep in addition to the default set, without CAP_.",
        schema=_CAPABILITIES,
        parse=parse_capabilities,
        dump=list,
    )
    drop: tuple[str, ...] = value(
        (),
        doc="Capabilities to drop from the default set, without CAP_.",
        schema=_CAPABILITIES,
        parse=parse_capabilities,
        dump=list,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Security:
    user_namespace: Literal["auto"] = value(
        "auto",
        doc="auto: a private range of 65536 user and group IDs; the server's root has no rights on the host.",
    )
    capabilities: CapabilityChange = one(
        CapabilityChange,
        CapabilityChange(),
        doc=f"Changes to the default set: {', '.join(sorted(DEFAULT_CAPABILITIES))}.",
    )
    no_new_privileges: bool = value(
        True, doc="Programs cannot gain privileges through setuid or file capabilities (PR_SET_NO_NEW_PRIVS)."
    )
    read_only_root: bool = value(False, doc="Mount the root file system read-only. Does not affect mounts.")

    def kept(self) -> tuple[str, ...]:
        """The capability bounding set, sorted: the default set plus `add`, minus `drop`."""
        return tuple(
            sorted((DEFAULT_CAPABILITIES | set(self.capabilities.add)) - set(self.capabilities.drop))
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Dependency:
    name: str = value(doc="Server that this one depends on.", schema=patterns.NAME, refers="Server")
    condition: Literal["started"] = value(
        "started", doc="Condition to wait for. started: its command is running."
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """The desired state of a virtual server.

    A quota with scope server is already merged into `resources`; `quota` is set only for pools.
    """

    image: str = value(
        doc="Image that provides the root file system.",
        schema=patterns.NAME,
        refers="Image",
        cost="restart",
    )
    quota: str | None = value(
        None,
        doc="Quota that provides resources: to each server that names it, or shared if it is a pool.",
        schema=patterns.NAME,
        refers="Quota",
        cost="restart",  # another parent group: the root of the guest's cgroup namespace cannot be moved
    )
    resources: Mapping[str, Any] = knobs(
        doc="Resources of this server. They override those of a quota with scope server.", cost="live"
    )
    state: Literal["Running", "Stopped"] = value(
        "Running", doc="Whether the server should be running.", cost="none"
    )
    hostname: str = value(
        doc="Host name of the server. Defaults to the server's name.",
        schema=patterns.HOSTNAME,
        required=False,
        cost="live",
    )
    init: Init = one(Init, Init(), doc="What the server runs.", cost="restart")
    mounts: tuple[Mount, ...] = many(
        Mount,
        by="target",
        doc="Additional mounts, each with a different target.",
        schema={"maxItems": 256},
        cost="restart",
    )
    interfaces: tuple[Interface, ...] = many(
        Interface,
        by="name",
        doc="Network interfaces besides the loopback interface, each with a different name.",
        schema={"maxItems": 32},
        cost="live",
    )
    ports: tuple[Port, ...] = many(
        Port,
        expand=expand_port,
        text=port_text,
        doc="Ports of the host that lead to this server (published ports).",
        schema={"items": SHORT_PORT, "maxItems": 1024},
        cost="live",
    )
    dns: Dns = one(Dns, Dns(), doc="How names are resolved, if the server has interfaces.", cost="live")
    firewall: Firewall = one(
        Firewall,
        Firewall(),
        doc="What is allowed to and from this server, in addition to the firewalls of its networks.",
        cost="live",
    )
    security: Security = one(
        Security, Security(), doc="Privileges of the server's processes.", cost="restart"
    )
    depends_on: tuple[Dependency, ...] = many(
        Dependency,
        by="name",
        doc="Servers that start before this one and stop after it.",
        schema={"maxItems": 256},
        cost="live",
    )
    ephemeral: bool = value(
        False, doc="Discard changes to the root file system when the server stops.", cost="recreate"
    )
