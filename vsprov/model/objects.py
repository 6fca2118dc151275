"""The objects of a manifest: Image, Quota, Server, as frozen values with every default filled in.

`fields.write(obj)` is the object's canonical `spec`: valid in a manifest, and what marks, diffs and `get` are
made of.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from vsprov.model import fields, units
from vsprov.model.fields import many, mapping, one, value, words
from vsprov.model.knobs import BY_PATH
from vsprov.model.sources import ImageLimits, Source
from vsprov.model.units import UnitError

API_VERSION = "vsprov/v1"
NAME_PATTERN = r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$"
IGNORE = "vsprov/ignore"
REQUIRE = "vsprov/require"
KINDS = ("Image", "Quota", "Server")

# The names kill(1) knows, without SIG; real-time signals as RTMIN+n.
SIGNALS = {
    name: number
    for number, name in enumerate(
        "HUP INT QUIT ILL TRAP ABRT BUS FPE KILL USR1 SEGV USR2 PIPE ALRM TERM STKFLT CHLD CONT STOP TSTP "
        "TTIN TTOU URG XCPU XFSZ VTALRM PROF WINCH IO PWR SYS".split(),
        1,
    )
}

LAST_SIGNAL = 64  # SIGRTMAX


def parse_signal(raw: Any) -> str:
    """`TERM` of TERM, SIGTERM or 15; `RTMIN+3` of SIGRTMIN+3 or 37."""
    text = str(raw).upper().removeprefix("SIG")
    if re.fullmatch(r"[0-9]{1,2}", text, re.ASCII):
        number = int(text)
        by_number = {n: name for name, n in SIGNALS.items()}
        text = by_number.get(number, f"RTMIN+{number - 34}" if 34 <= number <= LAST_SIGNAL else "")
    match = re.fullmatch(r"RTMIN(?:\+([0-9]{1,2}))?", text, re.ASCII)
    if match and int(match[1] or 0) <= LAST_SIGNAL - 34:
        return f"RTMIN+{int(match[1] or 0)}"
    if text not in SIGNALS:
        raise UnitError(f"{raw!r} is not a signal", "write TERM, INT, RTMIN+3, …")
    return text


def signal_number(name: str) -> int:
    """15 of "TERM", 37 of "RTMIN+3" (signal(7): SIGRTMIN is 34 under glibc)."""
    return SIGNALS[name] if name in SIGNALS else 34 + int(name.partition("+")[2] or 0)


def parse_user(raw: Any) -> str:
    """`UID[:GID]` or `name[:group]`; numbers are plain decimals (CVE-2026-30892: `-u 1` taken for root)."""
    text = str(raw)
    for part in text.split(":", 1):
        number = re.fullmatch(r"0|[1-9][0-9]{0,4}", part, re.ASCII)
        if number and int(part) > 65535:
            raise UnitError(f"{raw!r}: {part} is above 65535, the end of a server's id range")
        if not number and not re.fullmatch(r"[a-z_][a-z0-9_-]{0,30}\$?", part, re.ASCII):
            raise UnitError(
                f"{raw!r} is not a user", 'write "0:0", "1000" or a name from the image\'s /etc/passwd'
            )
    return text


def parse_capability(raw: Any) -> str:
    """`NET_ADMIN` of cap_net_admin, CAP_NET_ADMIN or NET_ADMIN."""
    name = str(raw).upper().removeprefix("CAP_")
    if name not in CAPABILITIES:
        raise UnitError(f"{raw!r} is not a capability", "names are as in capabilities(7), without CAP_")
    return name


def _parse_capabilities(raw: Any) -> tuple[str, ...]:
    return tuple(sorted({parse_capability(item) for item in raw}))


# include/uapi/linux/capability.h, in order of their numbers.
CAPABILITIES = (
    "CHOWN DAC_OVERRIDE DAC_READ_SEARCH FOWNER FSETID KILL SETGID SETUID SETPCAP LINUX_IMMUTABLE "
    "NET_BIND_SERVICE NET_BROADCAST NET_ADMIN NET_RAW IPC_LOCK IPC_OWNER SYS_MODULE SYS_RAWIO SYS_CHROOT "
    "SYS_PTRACE SYS_PACCT SYS_ADMIN SYS_BOOT SYS_NICE SYS_RESOURCE SYS_TIME SYS_TTY_CONFIG MKNOD LEASE "
    "AUDIT_WRITE AUDIT_CONTROL SETFCAP MAC_OVERRIDE MAC_ADMIN SYSLOG WAKE_ALARM BLOCK_SUSPEND AUDIT_READ "
    "PERFMON BPF CHECKPOINT_RESTORE "
).split()
# What podman gives a container by default; enough for packages, daemons and setuid programs, nothing of the
# host's.
DEFAULT_CAPABILITIES = frozenset(
    "CHOWN DAC_OVERRIDE FOWNER FSETID KILL NET_BIND_SERVICE SETFCAP SETGID SETPCAP SETUID SYS_CHROOT".split()
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Init:
    """What runs as pid 1. Style `exec`: the command itself, or below a reaper.

    Where the image brings a command, variables, a directory, a user or a stop signal of its own, those hold
    as far as these are absent: `defaults.init_of`. `args` come after the command, in place of the image's.
    """

    command: tuple[str, ...] = words()
    args: tuple[str, ...] = words()
    style: Literal["exec"] = "exec"
    env: Mapping[str, str] = mapping()
    working_dir: str | None = None
    user: str | None = value(None, parse=parse_user)
    reaper: bool = False
    stop_signal: str | None = value(None, parse=parse_signal)
    stop_timeout: int = value(10_000_000, parse=units.parse_duration, dump=units.format_duration)


@dataclass(frozen=True, slots=True, kw_only=True)
class Mount:
    """A mount at `target`. `id_map`: the guest's root owns what the host's does, if the file system can."""

    type: Literal["bind", "tmpfs"]
    target: str
    source: str | None = None
    read_only: bool = False
    recursive: bool = True
    id_map: bool = True
    size: int | None = value(None, parse=units.parse_bytes)
    mode: str = "1777"


# Type of a mount: the fields that only mounts of the other type have.
NOT_OF_MOUNT = {"bind": ("size", "mode"), "tmpfs": ("source", "recursive", "id_map")}


@dataclass(frozen=True, slots=True, kw_only=True)
class CapabilityChange:
    add: tuple[str, ...] = value((), parse=_parse_capabilities, dump=list)
    drop: tuple[str, ...] = value((), parse=_parse_capabilities, dump=list)


@dataclass(frozen=True, slots=True, kw_only=True)
class Security:
    user_namespace: Literal["auto"] = "auto"
    capabilities: CapabilityChange = one(CapabilityChange, CapabilityChange())
    no_new_privileges: bool = True
    read_only_root: bool = False

    def kept(self) -> tuple[str, ...]:
        """The bounding set, sorted: the default, with `add`, without `drop`."""
        return tuple(
            sorted((DEFAULT_CAPABILITIES | set(self.capabilities.add)) - set(self.capabilities.drop))
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Dependency:
    name: str
    condition: Literal["started"] = "started"


def read_resources(
    raw: Mapping[str, Any], report: fields.Report, at: fields.Path = ("resources",)
) -> dict[str, Any]:
    """{knob path: value} of a `resources` tree that the schema has accepted."""
    out: dict[str, Any] = {}
    for group, keys in raw.items():
        if group.startswith("x-"):
            continue
        for key, given in keys.items():
            knob = BY_PATH.get(f"{group}.{key}")
            if knob is None or given is None:  # `x-` keys
                continue
            try:
                out[knob.path] = knob.kind.parse(given)
            except UnitError as error:
                report((*at, group, key), error)
    return out


def write_resources(resources: Mapping[str, Any]) -> dict[str, Any]:
    """The tree that `read_resources` gives `resources` back from."""
    out: dict[str, Any] = {}
    for path, current in resources.items():
        group, key = path.split(".", 1)
        out.setdefault(group, {})[key] = BY_PATH[path].kind.dump(current)
    return out


def parse_resources(raw: Any) -> dict[str, Any]:
    """As `read_resources`, for a tree that vsprov wrote; UnitError at the first value not readable."""

    def fail(path: fields.Path, error: UnitError) -> None:
        raise error

    return read_resources(raw, fail)


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """A virtual server as wanted.

    `resources` is complete: a quota of scope server is merged in; `quota` names a pool.
    """

    image: str
    quota: str | None = None
    resources: Mapping[str, Any] = mapping(parse=parse_resources, dump=write_resources)
    state: Literal["Running", "Stopped"] = "Running"
    hostname: str
    init: Init = one(Init, Init())
    mounts: tuple[Mount, ...] = many(Mount)
    security: Security = one(Security, Security())
    depends_on: tuple[Dependency, ...] = many(Dependency)
    ephemeral: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Quota:
    """Resources with a name.

    Scope `server`: each server that names it gets them; `pool`: they share one parent group.
    """

    scope: Literal["server", "pool"] = "server"
    resources: Mapping[str, Any] = mapping(parse=parse_resources, dump=write_resources)


@dataclass(frozen=True, slots=True, kw_only=True)
class Image:
    source: Source = one(Source)
    limits: ImageLimits = one(ImageLimits, ImageLimits())


Spec = Image | Quota | Server


def write_spec(spec: Spec) -> dict[str, Any]:
    """An object's canonical `spec`, valid in a manifest; a Quota's knobs stand beside its scope."""
    if isinstance(spec, Quota):
        return {"scope": spec.scope, **write_resources(spec.resources)}
    return fields.write(spec)


def read_spec(kind: str, raw: Mapping[str, Any], report: fields.Report) -> Spec | None:
    """The object of a spec its schema has accepted; None when something needed was unreadable (reported)."""
    if kind == "Quota":
        tree = {key: keys for key, keys in raw.items() if key != "scope"}
        return Quota(scope=raw.get("scope", "server"), resources=read_resources(tree, report, ()))
    if kind == "Image":
        return fields.read(Image, raw, report)
    return fields.read(Server, raw, report)


@dataclass(frozen=True, slots=True, kw_only=True)
class Object:
    """A named object of a manifest."""

    kind: Literal["Image", "Quota", "Server"]
    name: str
    spec: Spec
    labels: Mapping[str, str] = mapping()
    annotations: Mapping[str, str] = mapping()

    @property
    def address(self) -> str:
        return f"{self.kind}/{self.name}"
