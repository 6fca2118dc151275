"""The order in which servers start and stop with the host."""

from __future__ import annotations

from typing import Any

from tests.unit.wishes import V2
from vsprov.model.kinds.sections.boot import Boot
from vsprov.model.kinds.sections.dependencies import Dependency
from vsprov.model.kinds.server import Server
from vsprov.model.objects import Object
from vsprov.plan.builder import PlanBuilder, Request, Wanted
from vsprov.plan.observed import Observed, ObservedServer, Probed, Process
from vsprov.plan.plan import Change
from vsprov.plan.servers.host_order import arrange, effective, postponed


def server(name: str, priority: int, *needs: str) -> Object:
    spec = Server(
        image="base",
        hostname=name,
        boot=Boot(priority=priority),
        depends_on=tuple(Dependency(name=each) for each in needs),
    )
    return Object(kind="Server", name=name, spec=spec)


def builder(action: Any, *servers: Object) -> PlanBuilder:
    """A plan with a change for each server; those that depend on others come after them, or before."""
    request = Request(action, frozenset(want.name for want in servers), host=True)
    made = PlanBuilder(Wanted("vsprov", "vsprov/*", servers, request=request), Observed(), V2)
    for want in servers:
        assert isinstance(want.spec, Server)
        names = [f"Server/{each.name}" for each in want.spec.depends_on]
        if action == "stop":
            names = [
                other.address
                for other in servers
                if isinstance(other.spec, Server) and any(d.name == want.name for d in other.spec.depends_on)
            ]
        after = ("Image/base", *names)
        made.add(want.address, Change("Server", want.name, "update", "none", action, after=after))
    return made


def test_a_server_has_at_least_the_priority_of_those_that_depend_on_it() -> None:
    chain = [server("top", 9, "middle"), server("middle", 0, "low"), server("low", -5), server("other", 3)]
    assert effective({want.name: want for want in chain}) == {
        "Server/top": 9,
        "Server/middle": 9,
        "Server/low": 9,
        "Server/other": 3,
    }


def test_servers_that_depend_on_each_other_have_the_highest_priority_of_them() -> None:
    circle = [server("a", 1, "b"), server("b", 2, "c"), server("c", 7, "a")]
    assert set(effective({want.name: want for want in circle}).values()) == {7}


def test_each_priority_starts_after_the_next_higher_one_even_if_that_failed() -> None:
    plan = builder("start", server("a", 2), server("b", 1), server("c", 1, "a"), server("d", 0))
    arrange(plan)
    changes = plan.changes
    assert changes["Server/a"].follows == ()
    assert changes["Server/b"].follows == changes["Server/c"].follows == ("Server/a",)
    assert changes["Server/c"].after == ("Image/base", "Server/a")
    assert changes["Server/d"].follows == ("Server/b", "Server/c")


def test_servers_stop_in_the_reverse_order_and_none_waits_for_the_success_of_another() -> None:
    plan = builder("stop", server("a", 2), server("b", 1), server("c", 1, "a"))
    arrange(plan)
    changes = plan.changes
    assert changes["Server/b"].follows == changes["Server/c"].follows == ()
    assert changes["Server/a"].after == ("Image/base",)
    assert changes["Server/a"].follows == ("Server/c", "Server/b", "Server/c")


def waiting(name: str, priority: int, needs: str, condition: Any = "ready") -> Object:
    spec = Server(
        image="base",
        hostname=name,
        boot=Boot(priority=priority),
        depends_on=(Dependency(name=needs, condition=condition),),
    )
    return Object(kind="Server", name=name, spec=spec)


def late(*servers: Object, ready: bool | None = None) -> set[str]:
    """The servers that are postponed while one of the name "runs" is ready, or not yet."""
    runs = ObservedServer("runs", init=Process(2, 3), readiness=Probed(ready))
    return {*postponed({want.name: want for want in servers}, Observed({"runs": runs}))}


def test_a_server_is_postponed_until_those_that_it_waits_for_are_in_the_condition() -> None:
    servers = [
        waiting("a", 0, "runs"),
        server("of-a", 0, "a"),
        server("beside", 0),
        server("free", 0, "runs"),
    ]
    assert late(*servers) == {"a", "of-a"}
    assert late(*servers, ready=True) == set()
    assert late(waiting("a", 0, "missing")) == {"a"}


def test_a_server_is_postponed_while_what_it_waits_for_is_still_to_be_started() -> None:
    assert late(waiting("web", 0, "db"), server("db", 0)) == {"web"}
    assert late(waiting("web", 0, "runs", "started"), ready=None) == set()


def test_servers_of_lower_priority_are_postponed_with_a_server_that_waits() -> None:
    servers = [waiting("a", 5, "runs"), server("low", 4), server("equal", 5), server("high", 6)]
    assert late(*servers) == {"a", "low"}
    # What a server depends on has at least its priority.
    assert late(waiting("a", 5, "db"), server("db", -3), server("low", 4)) == {"a", "low"}
