"""What is global to the networks of an instance: sysctls, the firewall, names, and links that nobody needs.

One change comes before those of servers and only adds; another comes after them and removes. What not all
servers need is a change of its own, so that its failure does not hold back the firewall.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping

from msgspec import Struct, field
from msgspec.structs import replace

from vsprov.model.kinds.server import Server
from vsprov.plan.builder import PlanBuilder
from vsprov.plan.network import naming, rates
from vsprov.plan.network.changes import compare, networks, pools, servers
from vsprov.plan.network.desired import addresses, names
from vsprov.plan.network.desired.result import Desired
from vsprov.plan.network.steps import (
    ChangeFirewall,
    MakeBridge,
    MountNames,
    RemoveLink,
    RemoveProxy,
    SetSysctl,
    WriteNames,
)
from vsprov.plan.plan import Change, PathChange, change
from vsprov.plan.steps import Step

PHASE, POOLS, NAMES, OTHERS, NARROW = (
    "network",
    "network-rates",
    "network-names",
    "network-other-servers",
    "network-removals",
)


class _Work(Struct):
    """Steps with what they change, as the plan shows it."""

    steps: list[Step] = field(default_factory=list)
    paths: list[PathChange] = field(default_factory=list)


class _All(Struct):
    """The work by phase: `first` is the firewall and what else all networks need, `others` is for running
    servers outside the manifest, `last` removes.
    """

    first: _Work = field(default_factory=_Work)
    pools: _Work = field(default_factory=_Work)
    names: _Work = field(default_factory=_Work)
    others: _Work = field(default_factory=_Work)
    last: _Work = field(default_factory=_Work)


def plan(builder: PlanBuilder, desired: Desired) -> None:
    """Add the changes of the host, and let the changes of servers and networks wait for them."""
    work = _All()
    explained = any(each.kind in ("Server", "Network") for each in builder.changes.values())
    _bridges(builder, desired)
    _sysctls(builder, desired, work.first, work.last)
    _pools(builder, desired, work.pools, work.last)
    _firewall(builder, desired, work.first, work.last, explained)
    _leftovers(builder, desired, work.first, work.last)
    _proxies(builder, desired, work.first)
    _outsiders(builder, desired, work.others)
    _names(builder, desired, work.names, explained)
    for name, seen in desired.seen.networks.items():
        unlisted = name in desired.networks and name not in builder.of("Network")
        if unlisted and (step := networks.with_sysctls(seen, desired.befores)):
            work.first.steps.insert(0, step)
    _add(builder, desired, work, "changed" if explained else "drift")


def _bridges(builder: PlanBuilder, desired: Desired) -> None:
    """Create the missing bridges of networks that are not in the manifest, but whose servers run or start."""
    for name, link in desired.wanted.bridges.items():
        if name not in builder.of("Network") and link.name not in desired.seen.links:
            path, step = change("status.link", "missing", "present", "live"), MakeBridge(name, link)
            made = Change("Network", name, "update", "live", "drift", (path,), steps=(step,))
            builder.add(made.address, made)


def _pools(builder: PlanBuilder, desired: Desired, work: _Work, last: _Work) -> None:
    """The rates that servers share."""
    for name, link in desired.wanted.pools.items():
        seen = desired.seen.links.get(name)
        steps, paths = pools.widen(builder.wanted.instance, link, seen)
        work.steps += steps
        work.paths += paths
        if left := list(pools.narrow(link, seen)):
            last.steps += left
            path = f"{naming.address(link.alias)}: status.shares"
            last.paths.append(change(path, "of servers that are gone", None, "live"))


def _sysctls(builder: PlanBuilder, desired: Desired, first: _Work, last: _Work) -> None:
    """Those of bridges that the plan creates are set by the changes of their networks."""
    seen = desired.seen.sysctls
    made = {
        step.link.name: key
        for key, each in builder.changes.items()
        for step in each.steps
        if isinstance(step, MakeBridge)
    }
    for path, value in desired.wanted.sysctls.items():
        before = seen.get(path)
        if before != value:
            step = SetSysctl(path, value, before or "0")
            if key := made.get(path.split("/")[3]):
                builder.changes[key] = replace(
                    builder.changes[key], steps=(*builder.changes[key].steps, step)
                )
                continue
            first.steps.append(step)
            if before is not None:  # else it is of a link that this plan creates
                first.paths.append(change(_sysctl(desired, path), before, value, "live"))
    for path, value in desired.restore.items():
        last.steps.append(SetSysctl(path, value, seen[path]))
        last.paths.append(change(_sysctl(desired, path), seen[path], value, "live"))


def _sysctl(desired: Desired, path: str) -> str:
    """How the plan calls a sysctl; one of a link of ours by the object that has the link."""
    family, _, rest = path.removeprefix("net/").partition("/conf/")
    link, _, name = rest.partition("/")
    found = desired.seen.links.get(link)
    of = naming.address(found.alias) if found else ""
    return f"{of}: status.{family}.{name}" if of else f"sysctls.{path.replace('/', '.')}"


def _firewall(builder: PlanBuilder, desired: Desired, first: _Work, last: _Work, explained: bool) -> None:
    wanted, seen = desired.wanted.tables, desired.seen.tables
    if wanted == seen:
        return
    from vsprov.plan.network import ruleset

    widen, undo, narrow, why = ruleset.changes(wanted, seen)
    text = "; ".join(why)
    if widen:
        first.steps.append(ChangeFirewall(json.dumps(widen), json.dumps(undo), text))
    if narrow:
        last.steps.append(ChangeFirewall(json.dumps(narrow), "[]", text))
    if (widen or narrow) and not explained:
        (first if widen else last).paths += [
            change("firewall", line, "as in the manifest", "live") for line in why
        ]


def _leftovers(builder: PlanBuilder, desired: Desired, first: _Work, last: _Work) -> None:
    """Links with the mark of the instance that nobody needs; those of networks go after their servers."""
    needed = {*desired.links.values(), *desired.wanted.pools}
    for inner in (*desired.wanted.interfaces.values(), *desired.seen.interfaces.values()):
        for each in filter(lambda each: each.link, inner.values()):
            needed |= {each.link, *([rates.shaper(each.link)] if each.is_shaped else [])}
    removed = {
        step.link for each in builder.changes.values() for step in each.steps if isinstance(step, RemoveLink)
    }
    left: dict[str, int] = {}
    for link in desired.seen.links.values():
        instance, of = naming.owner_of(link.alias)
        if instance != builder.wanted.instance or link.name in needed or link.name in removed:
            continue
        work = last if of.startswith(("network/", naming.POOL)) else first
        work.steps.append(RemoveLink(link.name, link.alias))
        path = f"{naming.address(link.alias)}: status.links"
        left[path] = left.get(path, 0) + 1
        work.paths = [
            *(each for each in work.paths if each.path != path),
            change(path, f"{left[path]} left over", None, "live"),
        ]


def _proxies(builder: PlanBuilder, desired: Desired, first: _Work) -> None:
    """Neighbors that the host answers for although their server has ended by itself.

    They have no mark: those are ours that lead to recorded addresses of servers on routed networks.
    """
    used = {
        (to, each.proxy)
        for servers in (desired.wanted.interfaces, desired.seen.interfaces)
        for inner in servers.values()
        for each in inner.values()
        for to in each.host_routes
    }
    for name, server in builder.observed.servers.items():
        record = server.applied or {}
        for one in record.get("spec", {}).get("interfaces", ()):
            texts = record.get("addresses", {}).get(one["name"], ())
            for parent in _parents(desired, one["network"]):
                left = {(addresses.single(text), parent) for text in texts} & desired.seen.proxies - used
                for address, link in sorted(left):
                    first.steps.append(RemoveProxy(address, link))
                    first.paths.append(
                        change(f"Server/{name}: status.proxy", f"{address} on {link}", None, "live")
                    )


def _parents(desired: Desired, network: str) -> set[str]:
    """The links of the host on which it answers for servers of a network, before and after the plan."""
    seen, spec = desired.seen.networks.get(network), desired.networks.get(network)
    before = seen.applied["spec"].get("parent") if seen and seen.applied else None
    return {parent for parent in (before, spec.parent if spec else None) if parent}


def _outsiders(builder: PlanBuilder, desired: Desired, work: _Work) -> None:
    """Adapt the interfaces of running servers outside the manifest to networks and pools in it.

    What follows from these is compared even if they do not change: an apply may have been interrupted.
    """
    changing = {
        each.name for each in builder.changes.values() if each.kind == "Network" and each.reason == "changed"
    }
    limited = {
        each.name for each in builder.changes.values() if each.kind == "Quota" and each.reason != "missing"
    }
    of_plan = {each.name for each in builder.changes.values() if each.kind == "Network"} | {
        *builder.of("Network")
    }
    for name, party in desired.parties.items():
        if party.listed or not party.running:
            continue
        own = {one.network for one in party.spec.interfaces}
        network = servers.of_server(builder, desired, name)
        assert network
        if own.isdisjoint(changing) and party.spec.quota not in limited:
            fields_of_networks = () if own.isdisjoint(of_plan) else compare.OF_NETWORKS
            fields_of_pools = compare.OF_POOLS if party.spec.quota in builder.pools else ()
            network = compare.restricted(network, (*fields_of_networks, *fields_of_pools))
        delta = compare.interfaces(name, network, party.recorded)
        work.steps += delta.steps
        work.paths += [replace(path, path=f"Server/{name}: {path.path}") for path in delta.paths]


def _names(builder: PlanBuilder, desired: Desired, work: _Work, explained: bool) -> None:
    """The files of running servers; those of others are written when they start."""
    files: list[tuple[str, str, str, str]] = []
    for server, seen in desired.seen.names.items():
        texts, present = _texts(builder, desired, server), dict(seen)
        party = desired.parties.get(server)
        if server in desired.seen.unnamed and party and party.running:
            work.steps.append(MountNames(server, party.spec.names_files_are_read_only))
            path = f"Server/{server}: status.names"
            work.paths.append(change(path, "of its image", "of its networks", "live"))
            present = dict.fromkeys(texts, "") | present
        files += [
            (server, name, texts[name], before)
            for name, before in present.items()
            if texts.get(name, before) != before
        ]
    if files:
        work.steps.append(WriteNames(tuple(files)))
        if not explained:
            servers = dict.fromkeys(server for server, *_ in files)
            work.paths += [
                change(f"Server/{server}: status.names", "outdated or edited", "restored", "live")
                for server in servers
            ]


def _texts(builder: PlanBuilder, desired: Desired, server: str) -> Mapping[str, str]:
    """The managed parts of the files of a server that runs after the plan, {} of any other."""
    if server in desired.parties:
        return desired.wanted.names[server] if desired.parties[server].running else {}
    want = builder.servers.get(server)
    runs = want is not None and isinstance(want.spec, Server) and want.spec.state == "Running"
    return {names.HOSTS: "", names.RESOLV_CONF: ""} if runs else {}  # its last interface goes


def _add(builder: PlanBuilder, desired: Desired, work: _All, reason: str) -> None:
    made = tuple(
        key for key, each in builder.changes.items() if each.kind == "Network" and each.action != "delete"
    )
    servers = [key for key, each in builder.changes.items() if _uses_networks(desired, each)]

    def add(of: _Work, phase: str, after: Iterable[str] = (), follows: Iterable[str] = ()) -> tuple[str, ...]:
        """The key of the change with this work, () if there is none."""
        if not of.steps:
            return ()
        each = Change(
            "Host", builder.wanted.instance, "update", "live", reason, tuple(of.paths), steps=tuple(of.steps),
            after=tuple(after), phase=phase, follows=tuple(follows),
        )  # fmt: skip
        builder.add(each.address, each)
        return (each.key,)

    host = add(work.first, PHASE, follows=made)
    shared = add(work.pools, POOLS, host)
    named = add(work.names, NAMES, follows=(*made, *host))
    others = add(work.others, OTHERS, (*host, *shared), made)
    narrow = add(work.last, NARROW, (*made, *servers, *host, *others), named)
    for key in servers:
        each = builder.changes[key]
        if each.action != "delete":
            after = (*each.after, *host, *(shared if _shares_rates(each) else ()))
            builder.changes[key] = replace(each, after=after, follows=(*each.follows, *named))
    if narrow:
        for key, each in builder.changes.items():
            if each.kind == "Network" and each.action == "delete":
                builder.changes[key] = replace(each, after=(*each.after, *narrow))


def _shares_rates(change: Change) -> bool:
    """Whether the interfaces of a server need the devices of its pool."""
    return bool((change.desired or {}).get("quota"))


def _uses_networks(desired: Desired, change: Change) -> bool:
    """Whether a server has, or had, interfaces."""
    specs = (change.before or {}, change.desired or {})
    if change.kind == "Image":  # a step of its build
        return any(key.startswith("Network/") for key in change.after)
    return change.kind == "Server" and any(spec.get("interfaces") for spec in specs)
