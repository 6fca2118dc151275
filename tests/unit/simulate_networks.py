"""The networks of a simulated world: links, records, sysctls, firewall, and the interfaces of its guests."""

from __future__ import annotations

import copy
import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from msgspec.structs import replace

from vsprov.plan.network import naming, ruleset
from vsprov.plan.network.desired import names, sysctls
from vsprov.plan.network.state import (
    HostLink,
    HostRoute,
    Interface,
    Listener,
    ObservedNetwork,
    Resolver,
    SeenNetworks,
    Tables,
)
from vsprov.plan.network.steps import (
    ChangeFirewall,
    ChangeInterface,
    ChangeLink,
    ChangePool,
    MakeBridge,
    MakeInterface,
    MakePool,
    MountNames,
    RemoveInterface,
    RemoveLink,
    RemoveShares,
    SetSysctl,
    WriteNames,
)
from vsprov.plan.steps import Step


class Refused(Exception):
    """What the kernel or the engine would not do."""


UPLINK = HostLink("eth0", "", mac="52:54:00:00:00:01", addresses=frozenset(["192.0.2.10/24"]))
PARENT = HostLink("lan0", "", mac="52:54:00:00:00:02", mtu=9000)
BRIDGE = HostLink("br0", "bridge", mac="52:54:00:00:00:03")
RESOLVER = Resolver(("192.0.2.53",), ("example.org",), (), ("192.0.2.53",))
ROUTES = (HostRoute("default", "eth0", "192.0.2.1"), HostRoute("192.0.2.0/24", "eth0"))


@dataclass
class Attached:
    """What a running guest has: its interfaces by name, and the names in the files that are bound into it."""

    interfaces: dict[str, Interface] = field(default_factory=dict)
    names: dict[str, str] = field(default_factory=dict)


@dataclass
class Networks:
    """`force`: this kernel forwards IPv6 by link, since Linux 6.17."""

    force: bool = True
    records: dict[str, tuple[str, str]] = field(default_factory=dict)  # owner, text
    links: dict[str, HostLink] = field(
        default_factory=lambda: {"eth0": UPLINK, "lan0": PARENT, "br0": BRIDGE}
    )
    routes: tuple[HostRoute, ...] = ROUTES
    sysctls: dict[str, str] = field(default_factory=dict)
    tables: Tables = field(default_factory=dict)
    guests: dict[str, Attached] = field(default_factory=dict)
    files: dict[str, dict[str, str]] = field(default_factory=dict)  # of servers, on disk
    listeners: tuple[Listener, ...] = ()
    foreign: tuple[str, ...] = ()
    lacking: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.sysctls:
            self.sysctls[sysctls.ALL_V6] = "0"
            if self.force:
                self.sysctls[sysctls.FORCE_ALL] = "0"
            for link in self.links:
                self.appear(link)

    def copy(self) -> Networks:
        out = copy.copy(self)
        for name in ("records", "links", "sysctls"):
            setattr(out, name, dict(getattr(self, name)))
        out.files = {name: dict(each) for name, each in self.files.items()}
        out.guests = {
            name: Attached(dict(each.interfaces), dict(each.names)) for name, each in self.guests.items()
        }
        return out

    def appear(self, link: str) -> None:
        for path in sysctls.of_link(link):
            if self.force or not path.endswith("force_forwarding"):
                self.sysctls[path] = "1" if path.endswith("accept_ra") else "0"

    def vanish(self, link: str) -> None:
        del self.links[link]
        for path in sysctls.of_link(link):
            self.sysctls.pop(path, None)

    def host_links(self) -> dict[str, HostLink]:
        """All links of the host: the ends of guests' interfaces exist as long as the guests do."""
        out = dict(self.links)
        for attached in self.guests.values():
            for each in attached.interfaces.values():
                if each.link:
                    names = frozenset([each.link_altname] if each.link_altname else [])
                    out[each.link] = HostLink(each.link, "veth", each.alias, names, parent=each.parent)
        for name, link in out.items():
            if link.shares:
                left = {number: of if of in out else "" for number, of in link.shares.items()}
                out[name] = replace(link, shares=left)
        return out

    def join(self, interface: Interface) -> None:
        """Give an interface its share of the rates of its pool."""
        for name in {interface.egress_pool, interface.ingress_pool} - {""}:
            pool = self.host_links().get(name)
            if pool is None or pool.ingress is None:
                raise Refused(f"no rate on {name}")
            if pool.shares.get(interface.share, "") not in ("", interface.link):
                raise Refused(f"share {interface.share} of {name} belongs to another link")
            others = {number: link for number, link in pool.shares.items() if link != interface.link}
            self.links[name] = replace(pool, shares={**others, interface.share: interface.link})

    def part(self, pool: str, numbers: Collection[int]) -> None:
        """Classes of a pool are gone; its interfaces are seen without."""
        if pool in self.links:
            kept = {number: of for number, of in self.links[pool].shares.items() if number not in numbers}
            self.links[pool] = replace(self.links[pool], shares=kept)
        for guest in self.guests.values():
            for key, each in guest.interfaces.items():
                if each.share in numbers and pool in (each.egress_pool, each.ingress_pool):
                    less: dict[str, Any] = {"ingress_pool": ""} if each.ingress_pool == pool else {}
                    if each.egress_pool == pool:
                        less |= {"egress_pool": "", "egress": None}
                    found = replace(each, **less)
                    is_in = found.egress_pool or found.ingress_pool
                    guest.interfaces[key] = found if is_in else replace(found, share=0)

    def observe(self, networked: bool) -> SeenNetworks | None:
        """`networked`: a server was applied with interfaces."""
        links = self.host_links()
        ours = [link for link in links.values() if naming.owner_of(link.alias)[0] == "vsprov"]
        if not (networked or self.records or ours or self.tables):
            return None
        by_alias = {link.alias: link for link in links.values()}
        for path in [path for path in self.sysctls if path.split("/")[3] not in {*links, "all"}]:
            del self.sysctls[path]
        return SeenNetworks(
            networks={
                name: ObservedNetwork(
                    name,
                    owner,
                    json.loads(text) if text else None,
                    by_alias.get(naming.network_alias("vsprov", name)),
                )
                for name, (owner, text) in self.records.items()
            },
            links=links,
            routes=self.routes,
            interfaces={name: dict(each.interfaces) for name, each in self.guests.items()},
            tables=self.tables,
            sysctls=dict(self.sysctls),
            resolver=RESOLVER,
            names={name: dict(each.names) for name, each in self.guests.items()},
            unnamed=frozenset(
                name for name, each in self.guests.items() if names.RESOLV_CONF not in each.names
            ),
            listeners=self.listeners,
            foreign=self.foreign,
            lacking=self.lacking,
        )

    def start(self, server: str, bound: bool) -> None:
        """A guest is created; `bound`: all of its files of names are mounted, else only /etc/hosts."""
        if not bound:
            self.files[server] = {names.HOSTS: ""}
        self.guests[server] = Attached({}, dict(self.files[server]))

    def attach(self, server: str, interface: Interface) -> None:
        """Create an interface, with its end on the host."""
        guest = self.guests.get(server)
        if guest is None:
            raise Refused(f"{server} does not run")
        links = self.host_links()
        if interface.name in guest.interfaces:
            raise Refused(f"{server} has {interface.name} already")
        if interface.link in links:
            raise Refused(f"link {interface.link} exists already")
        if interface.parent and interface.parent not in links:
            raise Refused(f"no link {interface.parent}")
        self.join(interface)
        guest.interfaces[interface.name] = interface
        if interface.link:
            self.appear(interface.link)

    def shared(self) -> set[tuple[str, int]]:
        """(link of a pool, number) of the shares that interfaces use."""
        used = [each for guest in self.guests.values() for each in guest.interfaces.values() if each.share]
        return {(pool, each.share) for each in used for pool in (each.egress_pool, each.ingress_pool)}

    def do(self, step: Step) -> bool:
        """Carry out a step, or raise Refused; False if it is not one of networks."""
        match step:
            case MakeBridge(_, link):
                if link.name in self.host_links():
                    raise Refused(f"link {link.name} exists")
                self.links[link.name] = replace(link, index=7)
                self.appear(link.name)
            case RemoveLink(name, alias):
                found = self.host_links().get(name)
                if found and found.alias == alias and name in self.links:
                    self.part(name, range(1 << 16))
                    self.vanish(name)
            case MakePool(link):
                if link.name in self.links:
                    raise Refused(f"link {link.name} exists")
                self.links[link.name] = replace(link, index=7, shares={})
                self.appear(link.name)
            case ChangePool(link, before):
                if not before.ingress:
                    self.part(link.name, range(1 << 16))
                found = self.links[link.name]
                self.links[link.name] = replace(found, ingress=link.ingress, up=True)
            case RemoveShares(name, numbers):
                if any((name, number) in self.shared() for number in numbers):
                    raise Refused(f"{name}: a share is in use")
                self.part(name, numbers)
            case ChangeLink(link, before):
                if self.links[link.name].alias != link.alias:
                    raise Refused(f"link {link.name} is not ours")
                self.links[link.name] = replace(link, index=7)
            case MakeInterface(server, interface):
                self.attach(server, interface)
            case RemoveInterface(server, interface):
                guest = self.guests.get(server)
                if guest:
                    guest.interfaces.pop(interface.name, None)
            case ChangeInterface(server, interface, before):
                inner = self.guests[server].interfaces
                if inner.pop(before.name) != before:
                    raise Refused(f"{server}: {before.name} is another one")
                self.join(interface)
                inner[interface.name] = interface
            case SetSysctl(path, value, _):
                if path not in self.sysctls:
                    raise Refused(f"no {path}")
                self.sysctls[path] = value
            case ChangeFirewall(commands):
                self.tables = filtered(self.tables, json.loads(commands))
            case MountNames(server):
                self.guests[server].names |= dict.fromkeys((names.RESOLV_CONF, names.HOSTNAME), "")
            case WriteNames(files):
                for server, name, text, _ in files:
                    self.files.setdefault(server, {})[name] = text
                    guest = self.guests.get(server)
                    if guest and name in guest.names:
                        guest.names[name] = text
            case _:
                return False
        return True


def filtered(tables: Tables, commands: list[Any]) -> Tables:
    """The tables after commands of libnftables-json(5)."""
    made = {family: list(objects) for family, objects in tables.items()}
    for each in commands:
        ((verb, of),) = each.items()
        ((kind, body),) = of.items()
        if kind == "element":
            where, one = next(
                (number, one)
                for number, one in enumerate(made[body["family"]])
                for found in one.values()
                if found.get("name") == body["name"] and ("type" in found and "hook" not in found)
            )
            ((sort, found),) = one.items()
            had = [old for old in found.get("elem", []) if old not in body["elem"]]
            assert (verb == "add") == (len(had) == len(found.get("elem", []))), each
            elements = [*had, *(body["elem"] if verb == "add" else ())]
            rest = {key: value for key, value in found.items() if key != "elem"}
            made[body["family"]][where] = {sort: {**rest, **({"elem": elements} if elements else {})}}
        elif kind == "table":
            made.pop(body["family"], None)
            made |= {body["family"]: [of]} if verb == "add" else {}
        else:
            made[body["family"]].append(of)
    return {family: ruleset.canonical(objects) for family, objects in made.items()}
