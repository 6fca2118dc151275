"""From a server to what the spawner is asked for."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from typing import Any

from vsprov.engine.run.context import ApplyContext
from vsprov.errors import HostError, StepError
from vsprov.kernel import cgroup, process
from vsprov.model.defaults import init_of, lacks_command
from vsprov.model.knobs import RLIMITS
from vsprov.model.names import CAPABILITIES
from vsprov.model.objects import Init, Mount, Object, Server
from vsprov.model.units import MAX
from vsprov.plan.observed import Machine
from vsprov.store import servers
from vsprov.store.hostimage import Bind
from vsprov.store.instance import RANGE
from vsprov.store.layers import layers

# What else of /proc and /sys an unprivileged root could read or write that is the host's business; the OCI
# runtimes' list.
MASKED = (
    "/proc/acpi", "/proc/asound", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/timer_list",
    "/proc/timer_stats", "/proc/sched_debug", "/proc/scsi", "/sys/firmware",
)  # fmt: skip
READ_ONLY = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")
# What the kernel charges to a server before its command is executed, generously: at all, and for every
# component of a mount's target, which may have to be made (250 mounts: 1.3 MiB).
MEMORY_TO_START, MEMORY_PER_COMPONENT = 4 << 20, 64 << 10
REAPERS = ("catatonit", "tini")
DEFAULT_ENV = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}


def spawn_request(context: ApplyContext, server: Object, group: str) -> dict[str, Any]:
    """The spawner's request for a server whose directory and groups are made."""
    spec = server.spec
    assert isinstance(spec, Server)
    image = context.contents(spec.image)
    init = init_of(spec.init, image.config)
    if not init.command:
        hint = "init: {command: [/bin/sh, -c, …]}"
        raise StepError(lacks_command(spec.image), hint=hint)
    path = f"{context.instance.servers}/{server.name}"
    v1 = sorted({context.directory(name, group) for name in context.hierarchies.v1})
    mounts = [*image_binds(image.binds), *(_mount(mount) for mount in spec.mounts)]
    return {
        "hostname": spec.hostname,
        "argv": list(init.command),
        "env": environment(init),
        "home": True,
        "cwd": init.working_dir,
        "user": init.user,
        "umask": 0o022,
        "no_new_privs": spec.security.no_new_privileges,
        "capabilities": capabilities(spec),
        "rlimits": rlimits(spec, context.machine),
        "oom_score_adj": None,
        "own_memory": _may_run_out(spec, init, context.directory("memory", group), mounts),
        "id_map": {"base": servers.id_base(context.instance, server.name), "size": RANGE},
        "root": {
            "lower": [layers.tree(context.instance, key) for key in reversed(image.layers)],
            "upper": f"{path}/upper",
            "work": f"{path}/work",
            "read_only": spec.security.read_only_root,
            "mount_at": context.instance.run,
        },
        "mounts": mounts,
        "masks": list(MASKED),
        "read_only_paths": list(READ_ONLY),
        "cgroup": {
            "payload": f"{context.directory('', group)}/payload",
            "attach": [where for where in v1 if os.path.isdir(where)],
        },
        "console": f"{path}/console.log",
        "reaper": _reaper() if spec.init.reaper else None,
    }


def _may_run_out(spec: Server, init: Init, group: str, mounts: Sequence[Mapping[str, Any]]) -> bool:
    """Whether a server could run out of memory before its command is executed.

    A pool's may be used up by the others in it; the server's own by what an earlier run has left behind:
    files in a tmpfs of the host stay charged to its group.
    """
    limit = spec.resources.get("memory.max", MAX)
    if spec.quota or limit == MAX:
        return bool(spec.quota)
    used = cgroup.memory_used(group) or 0
    components = sum(1 + mount["target"].count("/") for mount in mounts)
    words = sum(len(os.fsencode(word)) for word in (*init.command, *init.env.values()))
    return bool(limit - used < MEMORY_TO_START + MEMORY_PER_COMPONENT * components + words)


def enter_request(
    spec: Server,
    config: Mapping[str, Any],
    argv: list[str],
    *,
    user: str | None,
    cwd: str | None,
    env: dict[str, str],
    machine: Machine,
) -> dict[str, Any]:
    """What a command that joins a server is run with: the server's own confinement, environment, limits.

    `config` is what the image it runs on brings.
    """
    init = init_of(spec.init, config)
    return {
        "argv": argv,
        "env": {**environment(init), **env},
        "home": True,
        "cwd": cwd or init.working_dir,
        "user": init.user if user is None else user,
        "umask": 0o022,
        "no_new_privs": spec.security.no_new_privileges,
        "capabilities": capabilities(spec),
        "rlimits": rlimits(spec, machine),
    }


def environment(init: Init) -> dict[str, str]:
    return {**DEFAULT_ENV, **init.env}


def capabilities(spec: Server) -> list[int]:
    """Numbers of the capabilities in the bounding set."""
    return [CAPABILITIES.index(name) for name in spec.security.kept()]


def rlimits(spec: Server, machine: Machine) -> list[tuple[int, int, int]]:
    """(RLIMIT number, soft, hard) of every limit, -1 for no limit: those of the server, else the host's."""
    out = []
    for knob in RLIMITS:
        limits = spec.resources.get(knob.path, machine.limits.get(knob.rlimit))
        if limits:
            soft, hard = (-1 if limit == MAX else limit for limit in limits)
            out.append((process.LIMITS[knob.rlimit], soft, hard))
    return out


def find_reaper() -> str | None:
    """Path of a static catatonit or tini on the host; None where neither is installed."""
    path = "/usr/local/bin:/usr/bin:/bin:/usr/local/sbin:/usr/sbin:/sbin"
    return next((found for name in REAPERS if (found := shutil.which(name, path=path))), None)


def _reaper() -> str:
    if path := find_reaper():
        return path
    hint = "apt install catatonit"
    raise HostError("init.reaper: neither catatonit nor tini is installed on the host", hint=hint)


def image_binds(binds: Sequence[Bind]) -> list[dict[str, Any]]:
    """The mounts that an image of the host's own files consists of."""
    return [
        {
            "type": "bind",
            "source": bind.source,
            "target": bind.target,
            "read_only": True,
            "recursive": True,
            "idmap": True,
            "nosuid": False,
            "nodev": True,
            "create": True,
        }
        for bind in binds
    ]


def _mount(mount: Mount) -> dict[str, Any]:
    if mount.type == "tmpfs":
        return {
            "type": "tmpfs",
            "target": mount.target,
            "size": mount.size,
            "mode": int(mount.mode, 8),
            "read_only": mount.read_only,
            "nosuid": True,
            "nodev": True,
            "create": True,
        }
    return {
        "type": "bind",
        "source": mount.source,
        "target": mount.target,
        "read_only": mount.read_only,
        "recursive": mount.recursive,
        "idmap": mount.id_map,
        "nosuid": True,
        "nodev": True,
        "create": True,
    }
