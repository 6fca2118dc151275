"""Checks across documents and of values against each other; most are in tests/cases/manifest."""

from __future__ import annotations

import graphlib
import itertools
import json
import pathlib
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vsprov.errors import ManifestError, Problem
from vsprov.manifest.checks import image, limits, manifest, objects, probes
from vsprov.manifest.checks import server as of_server
from vsprov.manifest.checks.networks import addresses, connections, firewall, interfaces, network, ports
from vsprov.manifest.load import load, load_documents, render

CASES = pathlib.Path(__file__).parents[1] / "cases" / "manifest"


def document(kind: str, name: str, spec: dict[str, Any], **metadata: Any) -> dict[str, Any]:
    return {"apiVersion": "vsprov/v1", "kind": kind, "metadata": {"name": name, **metadata}, "spec": spec}


def server(name: str = "a", **spec: Any) -> dict[str, Any]:
    return document("Server", name, {"image": "i", "init": {"command": ["/bin/true"]}, **spec})


def found(*documents: dict[str, Any], images: frozenset[str] = frozenset({"i"})) -> list[Problem]:
    try:
        return list(load_documents(documents, known_images=images).warnings)
    except ManifestError as error:
        return list(error.problems)


def said(*documents: dict[str, Any]) -> list[str]:
    return [f"{problem.path}: {problem.message}" for problem in found(*documents)]


def depending(graph: dict[str, list[str]]) -> list[dict[str, Any]]:
    return [server(name, dependsOn=[{"name": one} for one in after]) for name, after in graph.items()]


def test_an_image_may_be_there_without_a_document() -> None:
    assert found(server(image="debian"), images=frozenset({"debian"})) == []
    (problem,) = found(server(image="debain"), images=frozenset({"debian"}))
    assert problem.message == "Image/debain not found; did you mean 'debian'?"


def test_a_long_chain_of_dependencies_is_no_cycle() -> None:
    chain = {f"s{i}": [f"s{i + 1}"] if i < 2999 else [] for i in range(3000)}
    assert said(*depending(chain)) == []


def test_a_long_cycle_is_named_in_short() -> None:
    (line,) = said(*depending({f"s{i}": [f"s{(i + 1) % 100}"] for i in range(100)}))
    assert line == (
        "spec.dependsOn[0].name: circular dependency: "
        "s0 → s1 → s2 → s3 → s4 → s5 → s6 → s7 → … → s98 → s99 → s0"
    )


@given(
    st.dictionaries(st.sampled_from("abcdef"), st.lists(st.sampled_from("abcdef"), max_size=3, unique=True))
)
def test_a_cycle_is_found_exactly_where_there_is_one(graph: dict[str, list[str]]) -> None:
    graph = {name: [one for one in after if one in graph] for name, after in graph.items()}
    lines = said(*depending(graph))
    try:
        graphlib.TopologicalSorter(graph).prepare()
        assert lines == []
    except graphlib.CycleError:
        assert lines
    for line in lines:
        way = re.sub(".*: ", "", line).split(" → ")
        assert way[0] == way[-1]
        assert all(after in graph[before] for before, after in itertools.pairwise(way))


@given(
    st.integers(1, 10**12), st.integers(0, 10**12), st.integers(0, 10**12), st.booleans()
)  # fmt: skip
def test_memory_knobs_are_bounded_by_max_wherever_they_come_from(
    most: int, low: int, high: int, merged: bool
) -> None:
    most, low, high = (size << 20 for size in (most, low, high))
    knobs = {"low": low, "high": high}
    if merged:
        quota = document("Quota", "q", {"memory": knobs})
        documents = [quota, server(quota="q", resources={"memory": {"max": most}})]
    else:
        documents = [server(resources={"memory": {**knobs, "max": most}})]
    wrong = sum(value > most for value in knobs.values())
    assert len(found(*documents)) == wrong


def test_a_quota_that_is_wrong_by_itself_is_said_once_and_not_of_each_server() -> None:
    quota = document("Quota", "q", {"memory": {"max": "1Mi", "high": "2Mi"}})
    problems = found(quota, *(server(f"s{i}", quota="q") for i in range(50)))
    assert [problem.subject for problem in problems] == ["Quota/q"]


def test_a_misspelt_limit_is_the_only_thing_said() -> None:
    resources = {"cpu": {"limt": 1, "burst": "1ms"}, "memory": {"swapMax": 0}}
    assert said(server(resources=resources)) == [
        "spec.resources.cpu.limt: unknown key; did you mean 'limit'?"
    ]


@pytest.mark.parametrize(
    "target", ["/dev/shm", "/dev/shm/x", "/device", "/procs", "/sys2", "/tmp", "/a b", "/ü,:\\"]
)
def test_a_mount_may_stand_anywhere_else(target: str) -> None:
    assert said(server(mounts=[{"type": "tmpfs", "target": target}])) == []


@pytest.mark.parametrize(
    "target",
    ["/", "/proc", "/proc/1", "/sys", "/dev", "/dev/null", "/dev/shmx", "/a/..", "/a/./b", "//a", "/a/"],
)
def test_a_mount_may_not_stand_here(target: str) -> None:
    assert len(said(server(mounts=[{"type": "tmpfs", "target": target}]))) == 1


def test_nested_mounts_are_no_problem() -> None:
    mounts = [{"type": "tmpfs", "target": target} for target in ("/a/b/c", "/a", "/a/b")]
    assert said(server(mounts=mounts)) == []


def test_what_does_not_fit_in_a_mark_is_refused_before_anything_is_made() -> None:
    init = {"command": ["/bin/true"], "env": {"A": "x" * 33_000}}
    (line,) = said(server(init=init))
    assert line == (
        "metadata.name: command, env, mounts, labels and annotations have 33010 characters in total, "
        "at most 32768"
    )


def test_a_broken_quota_is_not_missing() -> None:
    problems = found(document("Quota", "q", {"cpu": 5}), server(quota="q"))
    assert [problem.path for problem in problems] == ["spec.cpu"]


def connected(*places: dict[str, Any], name: str = "a", **spec: Any) -> dict[str, Any]:
    """A server with an interface on Network/lan for each of `places`, which are the other keys."""
    given = [{"name": f"eth{i}", "network": "lan", **place} for i, place in enumerate(places)]
    return server(name, interfaces=given, **spec)


LAN = document("Network", "lan", {"subnets": ["10.20.0.0/24"]})


def test_a_network_of_another_manifest_is_left_to_the_plan() -> None:
    allowed = [{"peers": ["web9", "other"]}]
    assert found(connected({}, firewall={"ingress": allowed})) == []


def test_without_a_store_unknown_networks_and_peers_are_warned_about(tmp_path: pathlib.Path) -> None:
    file = tmp_path / "m.yaml"
    allowed = {"ingress": [{"peers": ["lna", "lan", "10.0.0.0/8"]}]}
    documents = [
        document("Image", "i", {"source": {"host": {}}}),
        LAN,
        connected({"network": "lann"}, firewall=allowed),
    ]
    file.write_text("".join(f"---\n{json.dumps(one)}\n" for one in documents))
    required = "is not defined here; apply requires it in the instance; did you mean 'lan'?"
    said = [(problem.severity, problem.message) for problem in load([str(file)], known_images=None).warnings]
    assert said == [
        ("warning", f"Network/lann {required}"),
        ("warning", f"server or network lna {required}"),
    ]


def test_a_problem_beside_an_item_that_cannot_be_read_names_the_list() -> None:
    subnets = ["10.21.0.5/24", "10.22.0.0/31"]
    assert said(document("Network", "lan", {"subnets": subnets})) == [
        "spec.subnets[0]: 10.21.0.5/24 has host bits",
        "spec.subnets: 10.22.0.0/31 has no addresses for servers",
    ]


def test_what_refers_to_a_network_with_errors_is_not_checked_against_it() -> None:
    broken = document("Network", "lan", {"subnets": ["10.20.0.5/24", "10.21.0.0/24"]})
    assert said(broken, connected({"addresses": ["10.20.0.9"]}, {})) == [
        "spec.subnets[0]: 10.20.0.5/24 has host bits"
    ]


def test_one_default_route_of_each_family_is_enough_and_either_may_be_another() -> None:
    six = document("Network", "six", {"subnets": ["fd20::/64"]})
    assert found(LAN, six, connected({}, {"network": "six"})) == []
    assert found(LAN, connected({}, {"gateway": False})) == []
    route = {"gateway": False, "routes": [{"to": "0.0.0.0/0", "via": "10.20.0.7"}]}
    assert found(LAN, connected(route, {"gateway": False})) == []
    (line,) = said(LAN, connected(route, {}))
    assert line == ("spec.interfaces[1].gateway: eth0 (interfaces[0]) already has the default route for IPv4")


def test_addresses_of_a_routed_network_need_no_subnet_and_can_be_the_first() -> None:
    routed = document("Network", "lan", {"type": "routed", "subnets": ["203.0.113.0/30"]})
    given = ["203.0.113.0", "203.0.113.1/32", "203.0.113.3/30", "2001:db8::1"]
    assert found(routed, connected({"addresses": given})) == []


def test_servers_on_a_network_of_the_host_may_share_its_subnet_with_another_such_network() -> None:
    def street(name: str, **spec: Any) -> dict[str, Any]:
        return document("Network", name, {"subnets": ["192.0.2.0/24"], **spec})

    outside = [
        street("a", type="macvlan", parent="eth0"),
        street("b", type="ipvlan", parent="eth1"),
        street("c", bridge="br0"),
    ]
    assert found(*outside) == []
    assert said(*outside, street("d")) == ["spec.subnets[0]: 192.0.2.0/24 overlaps 192.0.2.0/24 of Network/a"]


def test_a_stopped_server_may_publish_the_ports_of_one_that_runs() -> None:
    standby = connected({}, name="b", ports=["80"], state="Stopped")
    assert found(LAN, connected({}, ports=["80"]), standby) == []


def test_ports_are_published_twice_only_by_those_with_an_address_in_common() -> None:
    def clash(*given: Any) -> bool:
        one, other = (connected({}, name=name, ports=[port]) for name, port in zip("ab", given, strict=True))
        six = document("Network", "lan", {"subnets": ["10.20.0.0/24", "fd20::/64"]})
        return any("already published" in line for line in said(six, one, other))

    assert clash(80, "0.0.0.0:80") and clash("[::]:80", "[fd99::1]:80") and clash("1.2.3.4:1-9:1-9", "9-10")
    assert not clash("0.0.0.0:80", "[::]:80") and not clash("1.2.3.4:80:1", "1.2.3.5:80:1")
    assert not clash("80/udp", "80/tcp") and not clash("1-9", "10-19")


def test_what_is_rendered_of_a_network_that_translates_nothing_is_a_manifest() -> None:
    for spec in ({"type": "macvlan", "parent": "eth0"}, {"type": "host"}, {"gateway": False}):
        rendered = render(load_documents([document("Network", "lan", spec)]))
        assert rendered[0]["spec"]["nat"] is False
        assert render(load_documents(rendered)) == rendered


def test_many_servers_with_ports_are_checked_in_order() -> None:
    servers = [
        connected({"addresses": [f"10.0.{i % 250}.{5 + i // 250}/8"]}, name=f"s{i}", ports=[f"{i + 1}:80"])
        for i in range(300)
    ]
    wide = document("Network", "lan", {"subnets": ["10.0.0.0/8"]})
    assert found(wide, *servers) == []
    servers[7] = connected({"addresses": ["10.0.9.5"]}, name="s7", ports=["300:80"])
    assert said(wide, *servers) == [
        "spec.interfaces[0].addresses[0]: 10.0.9.5 is already an address of Server/s7 (interfaces[0])",
        "spec.ports[0]: 300/tcp is already published by Server/s7 (ports[0])",
    ]


def test_every_check_has_a_case_or_a_test_that_makes_it_speak() -> None:
    text = "".join(file.read_text() for file in CASES.glob("*.yaml")) + pathlib.Path(__file__).read_text()
    words = {
        manifest.duplicates: "is already defined",
        manifest.renames: "the manifest still has Server/b",
        manifest.renames: "the manifest still has Server/",
        manifest.groups: "is reserved",
        manifest.idle_dependencies: "duplicate dependency",
        probes.conditions: "cannot become healthy: it has no health",
        manifest.circular_dependencies: "circular dependency",
        manifest.circular_builds: "circular build",
        connections.overlapping_networks: "overlaps 10.20.0.0/24 of Network/lan",
        connections.duplicate_macs: "is already the address of Server/web2",
        connections.shared_macs: "have the MAC address of its parent",
        connections.default_routes: "already has the default route for IPv4",
        connections.wrong_next_hops: "10.99.0.1 is not in Network/switch",
        connections.wrong_mtus: "exceeds that of Network/lan",
        connections.host_network: "cannot be combined with other networks",
        connections.unfiltered: "ports cannot be published through a network of type macvlan",
        addresses.wrong_addresses: "is the broadcast address of",
        addresses.duplicate_addresses: "is already an address of Server/web1",
        ports.port_families: "is an IPv6 address, and the server has none",
        ports.duplicate_ports: "is already published by Server/web1",
        firewall.ambiguous_peers: "is the name of a server and of a network",
        manifest.missing_references: "Image/nothing not found",
        manifest.missing_commands: "has no default command",
        firewall.unknown_peers: "server or network lna",
        limits.bounds: "exceeds max",
        limits.burst: "a burst requires a limit",
        limits.swap_without_memory: "without memory.max",
        limits.least_memory: "a server needs memory",
        limits.one_cpu: "is the number of a CPU, not an amount of time",
        limits.pool_rlimits: "a pool cannot share this",
        limits.disk: "is less than the minimum of 16Mi",
        objects.notes: "unknown knob",
        objects.size: "at most 32768",
        of_server.mount_targets: "cannot mount in",
        of_server.mount_kinds: "a bind mount requires a source",
        of_server.host_ids: "can make setuid programs",
        of_server.tmpfs_size: "a size of 0 would mean no limit",
        of_server.shm_size: "spec.shmSize: a size of 0",
        of_server.system_init: "does not apply to the style",
        of_server.working_dir: "spec.init.workingDir: '/srv/..'",
        of_server.command: "the program name is empty",
        of_server.capabilities: "is both added and dropped",
        of_server.probes: "is below 100ms, the minimum",
        interfaces.duplicate_interfaces: "duplicate interface eth0",
        interfaces.duplicate_addresses: "duplicate address 10.20.0.9",
        interfaces.interface_mtu: "spec.interfaces[3].mtu: 1000 is too small for IPv6",
        interfaces.routes: "is not of the family of",
        interfaces.unequal_ranges: "9000-9010 is 11 ports, but 9000-9009 is 10",
        interfaces.without_interfaces: "publishing a port requires an interface",
        interfaces.rules: "Server/web1: spec.firewall.ingress[0].ports: ports do not apply",
        image.host_paths: "host.paths[1]",
        image.oci: "applies only to registries",
        image.build_paths: "each server mounts its own /proc",
        network.keys_of_type: "parent does not apply to a network of type bridge",
        network.parent: "requires a parent",
        network.mode: "l2 is not a mode of macvlan",
        network.overlapping_subnets: "duplicate subnet 10.21.0.0/24",
        network.small_subnets: "fd21::/127 has no addresses for servers",
        network.mtu: "Network/small: spec.mtu: 1000 is too small for IPv6",
        network.host_stack: "can use all addresses, ports and links of the host",
        network.rules: "Network/small: spec.firewall.egress[0].ports: ports do not apply",
    }
    every = [*manifest.CHECKS, *manifest.REFERENCES]
    of_any = (*limits.LIMIT_CHECKS, *objects.OBJECT_CHECKS)
    of_servers = (*of_server.SERVER_CHECKS, *interfaces.INTERFACE_CHECKS)
    of_kinds = (*of_servers, *image.IMAGE_CHECKS, *network.NETWORK_CHECKS)
    assert list(words) == [*every, *of_any, *of_kinds]
    assert [phrase for phrase in words.values() if phrase not in text] == []
