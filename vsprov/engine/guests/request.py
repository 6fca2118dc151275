"""Requests to the guest programs: servers, steps of builds, and commands that join a server.

One function fills in the confinement that all three have, another what a server and a step of a build share.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from msgspec import Struct, field
from msgspec.structs import replace

from vsprov.engine.guests import mounts, seccomp
from vsprov.errors import HostError, StepError
from vsprov.kernel import cgroup, process
from vsprov.model.defaults import init_of, lacks_command
from vsprov.model.kinds.sections.init import Init
from vsprov.model.kinds.server import Server
from vsprov.model.limits.knobs import RLIMITS
from vsprov.model.objects import Object
from vsprov.model.sources import RunStep
from vsprov.model.values.names import CAPABILITIES, DEFAULT_CAPABILITIES
from vsprov.model.values.styles import CONTAINER, is_system
from vsprov.model.values.units import MAX
from vsprov.plan.observed import Machine
from vsprov.plan.observed import Process as InitProcess
from vsprov.plan.ranges import RANGE
from vsprov.store import machine_id
from vsprov.store.images import Contents
from vsprov.store.instance import TREE
from vsprov.store.layers import layers
from vsprov.store.space.disks import place

if TYPE_CHECKING:
    from vsprov.engine.guests.host_sources import OpenSources
    from vsprov.engine.run.context import ApplyContext
    from vsprov.guest.wire import Enter, Groups, Guest, Hierarchy, Mount, Process

# Files of /proc and /sys that concern the host, beyond what the kernel denies to an unprivileged root; the
# list of the OCI runtimes.
MASKED = (
    "/proc/acpi", "/proc/asound", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/timer_list",
    "/proc/timer_stats", "/proc/sched_debug", "/proc/scsi", "/sys/firmware",
)  # fmt: skip
READ_ONLY = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")
# A generous bound of what the kernel charges to a server before its command is executed: a constant, and an
# amount for every component of a mount's target, which may have to be created (measured: 1.3 MiB for 250
# mounts).
MEMORY_TO_START, MEMORY_PER_COMPONENT = 4 << 20, 64 << 10
REAPERS = ("catatonit", "tini")
DEFAULT_ENV = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}


def for_server(context: ApplyContext, server: Object, group: str, sources: OpenSources) -> Guest:
    """A server whose directory and control groups exist; `group` is its home group.

    `sources` must stay open until the server has been created.
    """
    spec = server.spec
    assert isinstance(spec, Server)
    image = context.contents_for(server.name, spec.image)
    init = init_of(spec.init, image.config)
    if not init.command:
        hint = "init: {command: [/bin/sh, -c, …]}"
        raise StepError(lacks_command(spec.image), hint=hint)
    path = f"{context.instance.servers}/{server.name}"
    groups = _groups(context, group)
    own_id = machine_id.provide(path)
    if is_system(init.style):
        init = replace(init, env={**_boot_variables(init.style, own_id), **init.env})
    if spec.readiness and spec.readiness.notify:
        address = notify_address(context.instance.name, server.name)
        init = replace(init, env={**init.env, "NOTIFY_SOCKET": f"@{address}"})
    written = sources.disk or place(path)
    guest = _guest(
        _server_process(spec, init, init.command, groups, context.machine),
        hostname=spec.hostname,
        base=context.bases[server.name],
        lower=[layers.tree(context.instance, key) for key in reversed(image.layers)],
        upper=f"{written}/upper",
        work=f"{written}/work",
        disk=sources.disk,
        mount_at=context.instance.run,
        mounts=mounts.of_server(
            spec,
            image.binds,
            sources,
            context.instance,
            folder=path,
            base=context.bases[server.name],
            own_id=own_id,
        ),
        console=f"{path}/console",
    )
    guest["hierarchies"] = _hierarchies(context, group, groups)
    guest["own_memory"] = _may_run_out(spec, init, context.directory("memory", group), guest["mounts"])
    guest["root"]["read_only"] = spec.security.read_only_root
    guest["host_network"] = any(context.network(one.network).type == "host" for one in spec.interfaces)
    guest["reaper"] = _reaper() if spec.init.reaper else None
    guest["shm_size"] = _shm_size(spec)
    if is_system(init.style):
        _boot_system(guest, spec, init.style)
    return guest


def _groups(context: ApplyContext, group: str) -> Groups:
    """The control groups that a server joins; those of cgroup v1 only as far as they exist."""
    v1 = sorted({context.directory(name, group) for name in context.hierarchies.v1})
    return {
        "payload": f"{context.directory('', group)}/payload",
        "attach": [directory for directory in v1 if os.path.isdir(directory)],
    }


def _hierarchies(context: ApplyContext, group: str, groups: Groups) -> list[Hierarchy]:
    """The cgroup v1 hierarchies of the host, and in which of them the server has a group of its own."""
    own = {name for name in context.hierarchies.v1 if context.directory(name, group) in groups["attach"]}
    return [
        {"controllers": list(names), "own": not own.isdisjoint(names)} for names in context.hierarchies.read
    ]


def _boot_system(guest: Guest, spec: Server, style: str) -> None:
    """Let the guest boot the init of its image."""
    guest["system"], guest["systemd"] = True, style == "systemd"
    # The kernel lets a server write only to what belongs to its own namespaces. That includes the limit by
    # which one without SYS_ADMIN may make no user namespaces.
    guest["read_only_paths"].remove("/proc/sys")
    if "SYS_ADMIN" not in spec.security.kept(style):
        guest["read_only_paths"].append("/proc/sys/user")


def _shm_size(spec: Server) -> int | None:
    """The size of /dev/shm: by default half of the memory that the server may use, or of the host's."""
    limit = spec.resources.get("memory.max", MAX)
    return spec.shm_size or (None if limit == MAX else int(limit) // 2)


def notify_address(instance: str, name: str) -> str:
    """The abstract address, in its network namespace, to which a server reports that it is ready; unix(7).

    It names the server, because several may share the network namespace of the host.
    """
    return f"vsprov/{instance}/{name}/notify"


def _boot_variables(style: str, machine: str) -> dict[str, str]:
    """What an init is told of the machine that it boots, of this ID; systemd.io/CONTAINER_INTERFACE.

    Its console is a log, so it need not be coloured.
    """
    parts = (machine[:8], machine[8:12], machine[12:16], machine[16:20], machine[20:])
    name = CONTAINER.get(style, "vsprov")
    return {"container": name, "container_uuid": "-".join(parts), "TERM": "dumb"}


def for_build(
    context: ApplyContext,
    step: RunStep,
    below: Contents,
    lower: list[str],
    folder: str,
    base: int,
    payload: str,
    sources: OpenSources,
    resolver: str | None,
) -> Guest:
    """A `run` step of a build: a guest for one command, whose upper directory in `folder` becomes a layer.

    `resolver` is the content of its /etc/resolv.conf; None for that of the host or of the image.
    """
    host_network = step.network == "host"
    command = _process(
        step.command,
        env={**below.config.get("env", {}), **step.env},
        cwd=step.working_dir,
        user=step.user,
        capabilities=sorted(DEFAULT_CAPABILITIES),
        no_new_privs=True,
        limits=rlimits({}, context.machine),
        groups={"payload": payload, "attach": []},
    )
    guest = _guest(
        command,
        hostname="build",
        base=base,
        lower=lower,
        upper=f"{folder}/{TREE}",
        work=f"{folder}/work",
        mount_at=context.instance.run,
        mounts=mounts.of_build(below.binds, sources, host_network, resolver),
        console=f"{folder}/console",
    )
    guest["host_network"] = host_network
    guest["own_memory"] = True
    guest["root"]["to_layer"] = True
    return guest


class Command(Struct, frozen=True):
    """A command to run in a running server; None means the server's own."""

    argv: tuple[str, ...]
    user: str | None = None
    cwd: str | None = None
    env: Mapping[str, str] = field(default_factory=dict)
    tty: bool = False


def for_command(
    command: Command,
    spec: Server,
    config: Mapping[str, Any],
    groups: Groups,
    init: InitProcess,
    machine: Machine,
) -> Enter:
    """A command that joins a running server, with the server's own confinement, environment and limits.

    `config` is the configuration of the server's image, `init` the server's first process.
    """
    own = init_of(spec.init, config)
    own = replace(
        own,
        env={**own.env, **command.env},
        working_dir=command.cwd or own.working_dir,
        user=own.user if command.user is None else command.user,
    )
    return {
        "cmd": "enter",
        "pid": init.pid,
        "start": init.start,
        "own_root": not is_system(spec.init.style),
        "tty": command.tty,
        "rows": 0,
        "cols": 0,
        **_server_process(spec, own, command.argv, groups, machine),
    }


def _server_process(
    spec: Server, init: Init, argv: Sequence[str], groups: Groups, machine: Machine
) -> Process:
    """A command that is confined as the server is; `init` is complete, as `init_of` returns it."""
    assert init.working_dir is not None and init.user is not None
    return _process(
        argv,
        env=init.env,
        cwd=init.working_dir,
        user=init.user,
        capabilities=spec.security.kept(spec.init.style),
        no_new_privs=spec.security.no_new_privileges,
        limits=rlimits(spec.resources, machine),
        groups=groups,
    )


def _process(
    argv: Sequence[str],
    *,
    env: Mapping[str, str],
    cwd: str,
    user: str,
    capabilities: Iterable[str],
    no_new_privs: bool,
    limits: list[tuple[int, int, int]],
    groups: Groups,
) -> Process:
    return {
        "argv": list(argv),
        "env": {**DEFAULT_ENV, **env},
        "home": True,
        "cwd": cwd,
        "user": user,
        "umask": 0o022,
        "no_new_privs": no_new_privs,
        "capabilities": [CAPABILITIES.index(name) for name in capabilities],
        "rlimits": limits,
        "seccomp": seccomp.program(),
        "cgroup": groups,
    }


def _guest(
    command: Process,
    *,
    hostname: str,
    base: int,
    lower: list[str],
    upper: str,
    work: str,
    disk: str | None = None,
    mount_at: str,
    mounts: list[Mount],
    console: str,
) -> Guest:
    """A guest with an id range from `base` on, an overlay root, and what all guests have hidden."""
    return {
        **command,
        "hostname": hostname,
        "host_network": False,
        "own_memory": False,
        "id_map": {"base": base, "size": RANGE},
        "root": {
            "lower": lower,
            "upper": upper,
            "work": work,
            "disk": disk,
            "read_only": False,
            "mount_at": mount_at,
            "to_layer": False,
        },
        "mounts": mounts,
        "hierarchies": [],
        "systemd": False,
        "system": False,
        "shm_size": None,
        "masks": list(MASKED),
        "read_only_paths": list(READ_ONLY),
        "console": console,
        "reaper": None,
    }


def _may_run_out(spec: Server, init: Init, group: str, mounts: Sequence[Mount]) -> bool:
    """Whether a server could run out of memory before its command is executed.

    The memory of a pool may be used up by its other servers, and a server's own by an earlier run: files in a
    tmpfs of the host stay charged to the group that wrote them.
    """
    limit = spec.resources.get("memory.max", MAX)
    if spec.quota or limit == MAX:
        return bool(spec.quota)
    used = cgroup.memory_used(group) or 0
    components = sum(1 + mount["target"].count("/") for mount in mounts)
    words = sum(len(os.fsencode(word)) for word in (*init.command, *init.env.values()))
    return bool(limit - used < MEMORY_TO_START + MEMORY_PER_COMPONENT * components + words)


def rlimits(resources: Mapping[str, Any], machine: Machine) -> list[tuple[int, int, int]]:
    """(RLIMIT_ number, soft, hard) of every limit, -1 for no limit: those set, or the defaults."""
    out = []
    for knob in RLIMITS:
        limits = resources.get(knob.path, machine.limits.get(knob.rlimit))
        if limits:
            soft, hard = (-1 if limit == MAX else limit for limit in limits)
            out.append((process.LIMITS[knob.rlimit], soft, hard))
    return out


def find_reaper() -> str | None:
    """The path of a static catatonit or tini on the host; None if neither is installed."""
    import shutil  # loads all that it can compress with

    path = "/usr/local/bin:/usr/bin:/bin:/usr/local/sbin:/usr/sbin:/sbin"
    return next((found for name in REAPERS if (found := shutil.which(name, path=path))), None)


def _reaper() -> str:
    if path := find_reaper():
        return path
    hint = "apt install catatonit"
    raise HostError("init.reaper: neither catatonit nor tini is installed on the host", hint=hint)
