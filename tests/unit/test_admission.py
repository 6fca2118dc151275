"""Reservations: what the host can promise, and the weights that keep it when everyone wants the CPU."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import pytest
from hypothesis import HealthCheck, assume, event, given, settings
from hypothesis import strategies as st

from tests.effort import examples
from vsprov.model.limits.encodings import Host
from vsprov.plan.builder import Wanted
from vsprov.plan.limits import admission
from vsprov.plan.limits.admission import HIGHEST_WEIGHT, Claim, with_pools
from vsprov.plan.observed import Machine, Observed, ObservedGroup, ObservedServer
from vsprov.plan.reconcile import reconcile

few = settings(examples(60), suppress_health_check=[HealthCheck.filter_too_much])


def host(cpus: int, memory: int = 2**30) -> Machine:
    return Machine(Host(), {"cpu": 2}, cpus=cpus, memory=memory)


def claim(name: str, reservation: int = 0, weight: int = 100, parent: str = "", protected: int = 0) -> Claim:
    kind = "Quota" if name[0] == "p" else "Server"
    return Claim(f"{kind}/{name}", parent, weight, reservation, protected)


def weights(claims: list[Claim], cpus: int) -> dict[str, int]:
    return {key.partition("/")[2]: weight for key, weight in admission.weights(claims, host(cpus)).items()}


@pytest.mark.parametrize(
    ("claims", "cpus", "expected"),
    [
        ([claim("a"), claim("b", weight=7)], 2, {"a": 100, "b": 7}),
        # 128 for the rest, which get 1 of 2 CPUs: as much again.
        ([claim("a", 1000), claim("b")], 2, {"a": 128, "b": 100}),
        ([claim("a", 1000), claim("b"), claim("c")], 2, {"a": 256, "b": 100, "c": 100}),
        ([claim("a", 1500), claim("b")], 2, {"a": 384, "b": 100}),
        # 128 * 500 / 900 = 72 and 228 * 600 / 1400 = 98: less than their own weight.
        ([claim("a", 600), claim("b", 500), claim("c")], 2, {"a": 100, "b": 100, "c": 100}),
        ([claim("a", 10), claim("b")], 4, {"a": 100, "b": 100}),
        ([claim("a", 1000, weight=300), claim("b")], 2, {"a": 300, "b": 100}),
        # Everyone reserves: as if there were one more that does not.
        ([claim("a", 250), claim("b", 250)], 2, {"a": 100, "b": 100}),
        ([claim("a", 1500), claim("b", 250)], 2, {"a": 768, "b": 128}),
        ([claim("a", 1000), claim("b", 1000)], 2, {"a": HIGHEST_WEIGHT, "b": HIGHEST_WEIGHT}),
        ([claim("a", 64_000), claim("b", 16_000)], 80, {"a": HIGHEST_WEIGHT, "b": 2500}),
        # A large weight beside it makes a small reservation dear.
        ([claim("a", 10, weight=10_000), claim("b", 90)], 1, {"a": 10_000, "b": 1002}),
        ([claim("a", 1999), claim("b", 1)], 2, {"a": HIGHEST_WEIGHT, "b": 100}),
    ],
)  # fmt: skip
def test_weights_are_exactly(claims: list[Claim], cpus: int, expected: dict[str, int]) -> None:
    assert weights(claims, cpus) == expected


def test_a_pool_reserves_what_its_servers_do_and_they_share_that() -> None:
    claims = [claim("p", 500), claim("a", 600, parent="p"), claim("b", 200, parent="p"), claim("c")]
    assert [(top.address, top.reservation) for top in with_pools(claims)] == [
        ("Quota/p", 800),
        ("Server/c", 0),
    ]
    # At the top 128 * 800 / 1200 = 86 is less than 100; inside, all 800 are reserved.
    assert weights(claims, 2) == {"p": 100, "a": 10_000, "b": 3333, "c": 100}


def test_servers_of_a_pool_that_reserves_nothing_share_the_host() -> None:
    assert weights([claim("p"), claim("a", parent="p"), claim("b", weight=5, parent="p")], 2) == {
        "p": 100,
        "a": 100,
        "b": 5,
    }


def test_a_server_whose_pool_is_not_there_keeps_its_weight() -> None:
    assert weights([claim("a", 500, weight=7, parent="pp")], 2) == {"a": 7}


def test_one_more_server_changes_weights_only_at_a_power_of_two() -> None:
    changes = []
    last = 0
    for count in range(1, 100):
        weight = weights([claim("a", 1000), *(claim(f"s{i}") for i in range(count))], 2)["a"]
        if weight != last:
            changes.append((count, weight))
        last = weight
    assert changes == [
        (1, 128),
        (2, 256),
        (3, 512),
        (6, 1024),
        (11, 2048),
        (21, 4096),
        (41, 8192),
        (82, 10_000),
    ]


CLAIMS = st.lists(
    st.tuples(st.sampled_from([0, 1, 10, 90, 200, 450]), st.sampled_from([1, 50, 100, 300, 10_000])),
    min_size=1,
    max_size=7,
)


def share(name: str, all_of_them: dict[str, int]) -> Fraction:
    return Fraction(all_of_them[name], sum(all_of_them.values()))


@few
@given(CLAIMS, st.sampled_from([1, 2, 4]))
def test_every_reservation_is_kept_when_all_want_the_cpu(rows: list[tuple[int, int]], cpus: int) -> None:
    claims = [claim(f"s{i}", reservation, weight) for i, (reservation, weight) in enumerate(rows)]
    assume(sum(c.reservation for c in claims) < cpus * 1000)
    found = weights(claims, cpus)
    assert all(1 <= weight <= HIGHEST_WEIGHT for weight in found.values())
    assert all(found[f"s{i}"] >= weight for i, (_, weight) in enumerate(rows))
    assert all(found[f"s{i}"] == weight for i, (reservation, weight) in enumerate(rows) if not reservation)
    held = all(found[f"s{i}"] < HIGHEST_WEIGHT for i, (reservation, _) in enumerate(rows) if reservation)
    event(f"within the kernel's weights: {held}")
    if held:
        for i, (reservation, _) in enumerate(rows):
            assert share(f"s{i}", found) * cpus * 1000 >= reservation


@few
@given(CLAIMS, CLAIMS, st.sampled_from([0, 300, 2000]), st.sampled_from([4, 8]))
def test_reservations_in_a_pool_are_kept_too(outside: Any, inside: Any, declared: int, cpus: int) -> None:
    top = [claim(f"s{i}", *row) for i, row in enumerate(outside)] + [claim("p", declared)]
    below = [claim(f"c{i}", held, weight, "p") for i, (held, weight) in enumerate(inside)]
    claims = top + below
    reserved = sum(c.reservation for c in below)
    assume(sum(c.reservation for c in with_pools(claims)) < cpus * 1000)
    # Where servers of a pool reserve all of it, one that reserves nothing still gets a little.
    assume(reserved < declared or all(c.reservation for c in below))
    found = weights(claims, cpus)
    assume(all(weight < HIGHEST_WEIGHT for weight in found.values()))
    pool = (
        share("p", {c.address.partition("/")[2]: found[c.address.partition("/")[2]] for c in top})
        * cpus
        * 1000
    )
    assert pool >= max(declared, reserved)
    for c in below:
        name = c.address.partition("/")[2]
        part = share(name, {b.address.partition("/")[2]: found[b.address.partition("/")[2]] for b in below})
        assert part * pool >= c.reservation


def test_what_fits_exactly_is_admitted() -> None:
    claims = [claim("a", 1500, protected=2**29), claim("b", 500, protected=2**29)]
    assert admission.host_refusals(claims, host(2)) == []


def test_more_cpu_than_there_is_is_refused_and_the_largest_are_named() -> None:
    claims = [claim(f"s{i}", 300 + i) for i in range(7)]
    assert admission.host_refusals(claims, host(2)) == [
        "CPU reservations add up to 2121m, but the host has 2 CPUs: "
        "Server/s6 306m, Server/s5 305m, Server/s4 304m, Server/s3 303m, Server/s2 302m"
    ]


def test_a_pool_counts_once_with_what_is_more() -> None:
    inside = [claim("a", 900, parent="p", protected=2**28), claim("b", 900, parent="p", protected=2**28)]
    assert admission.host_refusals([claim("p", 1000), *inside], host(2)) == []
    assert admission.host_refusals([claim("p", 2000), *inside], host(2)) == []
    assert admission.host_refusals([claim("p", 2000), *inside, claim("c", 1)], host(2)) == [
        "CPU reservations add up to 2001m, but the host has 2 CPUs: Quota/p 2, Server/c 1m"
    ]


def test_more_memory_than_there_is_is_refused() -> None:
    claims = [claim("a", protected=2**30), claim("b", protected=4096)]
    assert admission.host_refusals(claims, host(2)) == [
        "memory.min and memory.low add up to 1048580Ki, but the host has 1Gi"
    ]


def test_a_pool_whose_limits_are_below_what_its_servers_reserve_is_refused() -> None:
    pool = Claim("Quota/p", "", 100, 0, 0, cpu_limit=1000, memory_max=2**20)
    inside = [claim("a", 400, parent="p", protected=2**19), claim("b", 600, parent="p", protected=2**19)]
    assert list(admission.pool_refusals([pool, *inside, claim("c", 900)])) == []
    more = [*inside, claim("d", 1, parent="p", protected=4096)]
    assert list(admission.pool_refusals([pool, *more])) == [
        (
            "Quota/p",
            "cpu.limit",
            "CPU reservations of its servers add up to 1001m, but its limit is 1: "
            "Server/b 600m, Server/a 400m, Server/d 1m",
        ),
        (
            "Quota/p",
            "memory.max",
            "memory.min and memory.low of its servers add up to 1028Ki, but its memory.max is 1Mi",
        ),
    ]


def test_a_pool_of_another_set_that_promises_too_much_does_not_stop_this_one() -> None:
    pool = ObservedGroup("vsprov/p", "vsprov/theirs", applied={"scope": "pool", "cpu": {"limit": "100m"}})
    spec = {"image": "base", "quota": "p", "resources": {"cpu": {"reservation": "500m"}}}
    server = ObservedServer("a", applied={"image": "", "spec": spec})
    observed = Observed(servers={"a": server}, pools={"p": pool})
    assert reconcile(Wanted("vsprov", "vsprov/mine"), observed, host(2)).problems == ()


def test_a_claim_is_what_the_resources_say() -> None:
    resources = {"cpu.weight": 7, "cpu.reservation": 250, "memory.min": 1, "memory.low": 2, "memory.max": 9}
    assert Claim.of("Server/a", "p", resources) == Claim("Server/a", "p", 7, 250, 3, "max", 9)
    assert Claim.of("Server/a", "", {}) == Claim("Server/a", "", 100, 0, 0)
