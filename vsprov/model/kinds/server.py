"""The spec of a server: image, resources, init, mounts and privileges."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from vsprov.model.fields import Section, many, one, value
from vsprov.model.kinds.network import Dns, Firewall, Interface, Port, expand_port, port_text
from vsprov.model.kinds.sections.boot import Boot
from vsprov.model.kinds.sections.console import Console
from vsprov.model.kinds.sections.dependencies import Dependency
from vsprov.model.kinds.sections.hooks import Hooks
from vsprov.model.kinds.sections.init import Init
from vsprov.model.kinds.sections.life import POLICY, Restart, expand_restart
from vsprov.model.kinds.sections.mounts import Mount, Virtualize
from vsprov.model.kinds.sections.probes import Health, Readiness
from vsprov.model.kinds.sections.security import Security
from vsprov.model.kinds.sections.snapshots import Snapshots
from vsprov.model.kinds.sections.updates import UpdateStrategy
from vsprov.model.limits.resources import knobs
from vsprov.model.values import patterns
from vsprov.model.values.ports import SHORT_PORT
from vsprov.model.values.units import MAX
from vsprov.model.values.value_kinds import BYTES


class Server(Section):
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
    shm_size: int | None = value(
        None,
        doc="Size of /dev/shm. Defaults to half of memory.max, or half of the host's memory.",
        kind=BYTES,
        cost="restart",
    )
    virtualize: Virtualize = one(
        Virtualize, Virtualize(), doc="What the server sees of itself in place of the host.", cost="restart"
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
    restart: Restart = one(
        Restart,
        Restart(),
        doc="Whether the server is started again when it has ended: a policy, or a map.",
        schema={"type": ["object", "string"], **POLICY},
        expand=expand_restart,
        cost="live",
        kept=True,
    )
    console: Console = one(
        Console,
        Console(),
        doc="How much of the output of the server is kept, see `vsprov logs`.",
        cost="live",
        kept=True,
    )
    depends_on: tuple[Dependency, ...] = many(
        Dependency,
        by="name",
        doc="Servers that start before this one and stop after it.",
        schema={"maxItems": 256},
        cost="live",
    )
    readiness: Readiness | None = one(
        Readiness,
        None,
        doc="When the server is ready to work. Without it, a server that runs counts as ready.",
        cost="live",
        kept=True,
    )
    health: Health | None = one(
        Health, None, doc="Whether the server, while it runs, does its work.", cost="live", kept=True
    )
    boot: Boot = one(Boot, Boot(), doc="What happens when the host starts and shuts down.", cost="live")
    hooks: Hooks = one(
        Hooks,
        Hooks(),
        doc="Commands of the host that run as root when the server starts or stops.",
        cost="live",
    )
    snapshots: Snapshots | None = one(
        Snapshots,
        None,
        doc="Snapshots of what the server has written, and of its volumes, by a schedule.",
        cost="live",
        kept=True,
    )
    update_strategy: UpdateStrategy | None = one(
        UpdateStrategy,
        None,
        doc="Rolling updates: a change that restarts several servers with equal labels and this key restarts "
        "them in batches, waits until each batch is ready, and stops at the first server that does not "
        "become ready.",
        cost="live",
    )
    ephemeral: bool = value(
        False, doc="Discard changes to the root file system when the server stops.", cost="recreate"
    )

    @property
    def names_files_are_read_only(self) -> bool:
        """Whether the server cannot write to its /etc/hosts and the like. These are on the disk of the host,
        and would be a way around the limit of its own.
        """
        limits = (self.resources.get(f"disk.{key}", MAX) for key in ("space", "inodes"))
        return self.security.read_only_root or any(limit != MAX for limit in limits)
