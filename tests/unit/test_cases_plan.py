"""Each file of tests/cases/plan is a situation, and below it, as comments, the plan for it.

`applied` is what an earlier apply made, `others` what another set did, `meanwhile` what has happened since,
`wanted` what is asked for now (the same as before, if absent): objects by address, their `metadata` beside
the keys of their spec. A server without an image or command gets some. `digests` are what images are now.
With VSPROV_ACCEPT=1 the files are rewritten with the plans of now.
"""

from __future__ import annotations

import os
import pathlib
import re
from collections.abc import Iterator
from typing import Any

import pytest
import yaml
from msgspec.structs import replace

from tests.unit.simulate import World, apply
from tests.unit.simulate_groups import HOME
from tests.unit.wishes import MACHINES
from vsprov.manifest.load import load_documents
from vsprov.model.objects import Object
from vsprov.plan.builder import Wanted
from vsprov.plan.network import naming
from vsprov.plan.network.state import HostLink, HostRoute, Listener
from vsprov.plan.observed import ObservedGroup, ObservedServer
from vsprov.plan.plan import Plan
from vsprov.plan.reconcile import reconcile

CASES = pathlib.Path(__file__).parents[1] / "cases" / "plan"
FILES = sorted(CASES.glob("*.yaml"))


def objects(described: dict[str, Any]) -> tuple[Object, ...]:
    documents = []
    for address, spec in described.items():
        kind, _, name = address.partition("/")
        metadata = {"name": name, **spec.pop("metadata", {})}
        if kind == "Server":
            spec = {"image": "base", "init": {"command": ["/bin/sleep", "infinity"]}, **spec}
        documents.append({"apiVersion": "vsprov/v1", "kind": kind, "metadata": metadata, "spec": spec})
    images = frozenset(spec.get("image", "base") for spec in described.values())
    return load_documents(documents, known_images=images).objects


def wish(case: dict[str, Any], key: str, owner: str = "vsprov/mine") -> Wanted:
    described = case.get(key) or {}
    wanted = objects({address: dict(spec or {}) for address, spec in described.items()})
    digests = {one.name: f"sha256:{one.name}" for one in wanted if one.kind == "Image"}
    if key == "wanted":
        digests |= case.get("digests", {})
    return Wanted("vsprov", owner, wanted, digests)


class Situation(World):
    """A world in which strangers' things can stand too."""

    strangers: dict[str, ObservedServer]

    def observe(self, wanted: Wanted | None = None) -> Any:
        seen = super().observe(wanted)
        return replace(seen, servers={**seen.servers, **self.strangers})


def happen(world: Situation, what: str, how: Any) -> None:
    """One thing that happens behind vsprov's back."""
    if what == "write":
        for place, text in how.items():
            group, _, file = place.rpartition("/")
            hierarchy = next(
                name for name in world.hierarchies() if file in world.files.get((name, group), {})
            )
            world.write(hierarchy, group, file, text)
    elif what == "kill":
        del world.guests[how]
    elif what == "not ready":
        world.guests[how].ready = False
    elif what == "remove cgroup":
        for name in world.inside(HOME, how):
            del world.guests[name]
        world.forget_group(how)
    elif what == "remove directory":
        del world.directories[how]
    elif what == "disk":
        for name, values in how.items():
            directory = world.directories[name]
            if values and "pools" in values:
                values = values | {"pools": tuple(values["pools"])}
            directory.disk = replace(directory.disk, **values) if values else None
    elif what == "pool disk":
        for name, values in how.items():
            world.disks.pools[name] = replace(world.disks.pools[name], **values)
    elif what == "edit mark":
        world.marks[how] += " "
    elif what == "lose record":
        world.directories[how].applied = None
    elif what == "move init out of":
        server, hierarchy = how.split()
        world.guests[server].where[hierarchy] = ""
    elif what == "hostname":
        for name, hostname in how.items():
            world.guests[name].hostname = hostname
    elif what == "limit":
        for name, limits in how.items():
            world.guests[name].limits |= {limit: tuple(values) for limit, values in limits.items()}
    elif what == "lose owner":
        del world.owners[HOME, how]
    elif what == "stranger's cgroup":
        world.strangers[how] = ObservedServer(how, ObservedGroup(f"vsprov/{how}", None))
    elif what == "stranger's directory":
        world.strangers[how] = ObservedServer(how, directory=True)
    elif what == "reboot":
        world.guests.clear()
        world.forget_group("vsprov")
        world.subtree[""].clear()
    elif not networks_happen(world, what, how):
        raise ValueError(what)


def networks_happen(world: Situation, what: str, how: Any) -> bool:
    """As `happen`, for what happens to networks; whether it does."""
    networks = world.networks
    if what == "interface":
        for place, values in how.items():
            server, _, name = place.partition("/")
            found = replace(networks.guests[server].interfaces.pop(name), **values)
            networks.guests[server].interfaces[found.name] = found
    elif what == "remove interface":
        server, _, name = how.partition("/")
        del networks.guests[server].interfaces[name]
    elif what == "bridge":
        for network, values in how.items():
            name = naming.bridge_name("vsprov", network)
            networks.links[name] = replace(networks.links[name], **values)
    elif what == "link":
        for name, values in how.items():
            addresses = frozenset(values.get("addresses", ()))
            networks.links[name] = HostLink(
                name, values.get("kind", ""), values.get("alias", ""), addresses=addresses
            )
            networks.appear(name)
    elif what == "route":
        networks.routes += tuple(HostRoute(to, link) for to, link in how.items())
    elif what == "sysctl":
        networks.sysctls |= how
    elif what == "names":
        for server, text in how.items():
            networks.guests[server].names["hosts"] = text
    elif what == "listener":
        networks.listeners = (Listener("tcp", how["address"], how["tcp"], how["process"]),)
    elif what == "foreign":
        networks.foreign = (how,)
    else:
        return False
    return True


def situation(case: dict[str, Any]) -> Situation:
    world = Situation(MACHINES[case["machine"]])
    world.strangers = {}
    for key, owner in (("others", "vsprov/others"), ("applied", "vsprov/mine")):
        before = wish(case, key, owner)
        plan = reconcile(before, world.observe(before), world.machine)
        assert not plan.problems, plan.problems
        apply(plan, before, world)
    for each in case.get("meanwhile") or ():
        for what, how in each.items() if isinstance(each, dict) else [(each, None)]:
            happen(world, what, how)
    return world


def lines(plan: Plan) -> Iterator[str]:
    for problem in plan.problems:
        yield f"problem: {problem}"
        if problem.hint:
            yield f"  hint: {problem.hint}"
    for change in plan.changes:
        yield f"{change.action} {change.key}: {change.reason} ({change.cost})"
        if change.after:
            yield f"  after {', '.join(change.after)}"
        if change.follows:
            yield f"  follows {', '.join(change.follows)}"
        yield from (
            f"  {path.path}: {' → '.join(filter(None, path.shown))} ({path.cost})" for path in change.paths
        )
        yield from (f"  note: {note}" for note in change.notes)
        yield from (f"  - {step.describe()}" for step in change.steps)
    if plan.unchanged:
        yield f"unchanged: {', '.join(plan.unchanged)}"
    for address in plan.notes.keys() & set(plan.unchanged):
        yield from (f"note of {address}: {note}" for note in plan.notes[address])
    counted = ", ".join(f"{number} {what}" for what, number in plan.summary().items() if number)
    yield f"summary: {counted or 'nothing'}"


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_the_plan_for_a_situation_is_what_stands_below_it(file: pathlib.Path) -> None:
    text, _, expected = file.read_text().partition("#= plan\n")
    case = yaml.safe_load(text)
    world = situation(case)
    wanted = wish(case, "wanted" if "wanted" in case else "applied")
    wanted = replace(wanted, prune=case.get("prune", False), remove=frozenset(case.get("remove", ())))
    plan = reconcile(wanted, world.observe(wanted), world.machine)
    got = list(lines(plan))
    if os.environ.get("VSPROV_ACCEPT"):
        below = "".join(f"# {line}\n" for line in got)
        file.write_text(f"{text}#= plan\n{below}")
        return
    assert got == [line[2:] for line in expected.splitlines()]
    if not plan.problems:
        apply(plan, wanted, world)
        assert reconcile(wanted, world.observe(wanted), world.machine).empty


def test_there_are_cases() -> None:
    assert len(FILES) > 40
    assert all(re.fullmatch(r"[a-z0-9-]+", file.stem) for file in FILES)
