"""vsprov dies at every sort of step that makes, changes and removes networks; what comes next mends it."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests import world
from tests.e2e.networks import idle, network
from tests.fault.crashes import Base, every_step, with_bystander
from tests.fault.faults import Apply
from tests.features import requires
from tests.lab import Document, image, pool
from vsprov.kernel.links import host, interfaces
from vsprov.plan.network import steps
from vsprov.plan.network.state import HostLink, Interface
from vsprov.store import names_files

BEFORE: tuple[Document, ...] = (
    image(),
    network("lan", "10.20.0.0/24", "fd20::/64"),
    idle("live", "lan", ports=["8080:80"]),
    pool("team", network={"ingress": "30Mbit"}),
    idle("restarted", "lan", quota="team", resources={"network": {"egress": "10Mbit"}}),
)
AFTER: tuple[Document, ...] = (
    image(),
    network("lan", "10.20.0.0/24", "fd20::/64", mtu=1400),
    network("back", "10.21.0.0/24", nat=False, isolated=True),
    idle("live", "lan", {"name": "eth1", "network": "back", "gateway": False}, ports=["8081:80/udp"],
         firewall={"ingress": [{"protocol": "tcp", "ports": ["80"]}]}),
    pool("team", network={"egress": "30Mbit"}),
    idle("restarted", "back", command=("sleep", "123456"), quota="team",
         resources={"network": {"ingress": "20Mbit"}}),
    idle("added", "lan"),
)  # fmt: skip
# The other sorts are those of any server, after which tests/fault/test_crash.py dies.
NETWORK = {"Spawn", "Stop", *(step.__name__ for step in vars(steps).values() if isinstance(step, type))}
TWO = ("lan", {"name": "eth1", "network": "lan", "gateway": False})


@pytest.fixture(scope="module")
def base() -> Iterator[Base]:
    requires("overlay", "ip", "nft", "nft_bridge", "bridge", "veth")
    with world.made() as made, with_bystander(made.host) as base:
        yield base


def test_networks_that_died_while_being_made_are_finished_by_the_next_apply(base: Base) -> None:
    made = base.make(BEFORE)
    base.remove(BEFORE)

    def mend(step: int) -> None:
        assert Apply(base.lab, BEFORE).run() == 0, f"after step {step}"
        base.holds(made, step)
        base.remove(BEFORE)

    assert every_step(base, Apply(base.lab, BEFORE), lambda: None, mend, NETWORK) > 20


def test_networks_that_died_while_being_made_can_be_removed(base: Base) -> None:
    def mend(step: int) -> None:
        assert Apply(base.lab, BEFORE, remove=True).run() == 0, f"after step {step}"
        base.holds(base.empty, step)

    assert every_step(base, Apply(base.lab, BEFORE), lambda: None, mend, NETWORK) > 20


@pytest.mark.slow
def test_a_change_of_networks_that_died_is_finished_by_the_next_apply(base: Base) -> None:
    changed = base.make(AFTER)
    base.remove(AFTER)

    def mend(step: int) -> None:
        assert Apply(base.lab, AFTER).run() == 0, f"after step {step}"
        base.holds(changed, step)
        base.remove(AFTER)

    assert every_step(base, Apply(base.lab, AFTER), lambda: base.make(BEFORE), mend, NETWORK) > 10


def test_a_removal_of_networks_that_died_is_finished_by_the_next(base: Base) -> None:
    def mend(step: int) -> None:
        assert Apply(base.lab, BEFORE, remove=True).run() == 0, f"after step {step}"
        base.holds(base.empty, step)

    change = Apply(base.lab, BEFORE, remove=True)
    assert every_step(base, change, lambda: base.make(BEFORE), mend, NETWORK) >= 5


def failing_once(name: str) -> Callable[[], None]:
    """What makes the kernel refuse the first interface with this name, in a child."""

    def prepare() -> None:
        make = interfaces.make_interface
        refused: list[str] = []

        def refuse(pid: int, wanted: Interface) -> None:
            make(pid, wanted)  # it fails at the very end
            if wanted.name == name and not refused:
                refused.append(name)
                interfaces.remove_interface(pid, wanted)
                raise OSError(errno.EBUSY, "Device or resource busy", f"create link {wanted.link}")

        interfaces.make_interface = refuse

    return prepare


def test_a_server_whose_interface_cannot_be_created_does_not_start_and_nothing_of_it_is_left(
    base: Base,
) -> None:
    network_only = BEFORE[:2]
    left = base.make(network_only)
    first = (*network_only, idle("live", *TWO))
    assert Apply(base.lab, first).run(failing_once("eth1")) == 1
    assert not base.lab.group("live").exists() and not base.lab.directory("live").exists()
    own = [
        link["ifalias"] for link in world.links(base.lab.vsprov.network or 0).values() if "ifalias" in link
    ]
    assert own == [f"vsprov:{base.lab.vsprov.name}:network/lan"]
    assert Apply(base.lab, network_only).run() == 0  # what the firewall would have let pass
    base.holds(left, 0)
    base.remove(network_only)


def test_a_server_that_cannot_get_its_new_interface_is_started_again_as_it_was(base: Base) -> None:
    lan = BEFORE[:2]
    before = (*lan, idle("live", "lan"))
    made = base.make(before)
    changed = idle("live", *TWO, command=("sleep", "9999"))
    assert Apply(base.lab, (*lan, changed)).run(failing_once("eth1")) == 1
    assert world.links_of(base.lab.init("live").pid).keys() == {"lo", "eth0"}
    assert Apply(base.lab, before).run() == 0
    base.holds(made, 0)
    base.remove(before)


PUBLISHED: tuple[Document, ...] = (
    *BEFORE[:2],
    idle("live", "lan", ports=["8080:80"], firewall={"ingress": [{"protocol": "tcp", "ports": ["80"]}]}),
)


def test_the_firewall_is_as_before_when_a_server_does_not_start(base: Base) -> None:
    left = base.make(BEFORE[:2])
    added = idle("added", *TWO, ports=["8080-8090:80-90/udp"], firewall={"ingress": []})
    tables = tables_of(base)
    assert Apply(base.lab, (*BEFORE[:2], added)).run(failing_once("eth1")) == 1
    base.holds(left, 0)
    assert tables_of(base) == tables
    base.remove(BEFORE[:2])


def test_a_server_that_is_started_again_as_it_was_has_its_published_ports_and_openings(base: Base) -> None:
    made = base.make(PUBLISHED)
    before = tables_of(base)
    other = idle("live", *TWO, command=("sleep", "9999"), ports=["8080:81", "8081:82/udp"],
                 firewall={"ingress": [{"protocol": "udp", "ports": ["82"]}]})  # fmt: skip
    assert Apply(base.lab, (*BEFORE[:2], other)).run(failing_once("eth1")) == 1
    base.holds(made, 0)
    assert tables_of(base) == before
    base.remove(PUBLISHED)


def test_sysctls_are_as_before_when_no_network_can_be_created(base: Base) -> None:
    before = net_of(base, SYSCTLS)
    assert Apply(base.lab, BEFORE[:2]).run(without_bridges("lan")) == 1
    assert net_of(base, SYSCTLS) == before
    assert tables_of(base) == []
    base.remove(BEFORE[:2])


def test_a_bridge_that_cannot_be_created_stops_only_the_servers_that_need_it(base: Base) -> None:
    documents = (*BEFORE[:2], network("back", "10.21.0.0/24"), PUBLISHED[2], idle("added", "back"))
    assert Apply(base.lab, documents).run(without_bridges("back")) == 1
    assert world.links_of(base.lab.init("live").pid).keys() == {"lo", "eth0"}
    assert not base.lab.group("added").exists()
    assert net_of(base, f"sysctl -n net.ipv4.conf.{world.UPLINK}.forwarding") == ["1"]
    left = tables_of(base)
    assert [line for line in left if "8080" in line] and not [line for line in left if "10.21.0." in line]
    base.remove((*BEFORE[:2], PUBLISHED[2]))


def test_a_full_disk_does_not_keep_an_opening_of_the_firewall_open(base: Base) -> None:
    """The names of running servers are on the disk."""
    base.make((*PUBLISHED, idle("restarted", "lan")))
    closed = idle("live", "lan", firewall={"ingress": []})
    documents = (*BEFORE[:2], closed, idle("restarted", "lan"), idle("added", "lan"))
    assert [line for line in tables_of(base) if "8080" in line]
    assert Apply(base.lab, documents).run(without_names) == 1
    assert not [line for line in tables_of(base) if "8080" in line]
    assert Apply(base.lab, documents).run() == 0
    base.remove(documents)


SYSCTLS = "sysctl net.ipv4.conf net.ipv6.conf"


def net_of(base: Base, command: str) -> list[str]:
    """The lines that a command prints on the host of the lab, but those about the links of vsprov."""
    told = world.run(base.lab.vsprov.network or 0, *command.split(), check=False)
    return sorted(line for line in told.splitlines() if ".vb" not in line)


def tables_of(base: Base) -> list[str]:
    return net_of(base, "nft -s list ruleset")


def without_bridges(name: str) -> Callable[[], None]:
    """What makes the kernel refuse the bridge of a network, in a child."""

    def prepare() -> None:
        make = host.make_bridge

        def refuse(wanted: HostLink) -> None:
            if wanted.alias.endswith(f"/{name}"):
                raise OSError(errno.ENOMEM, "Cannot allocate memory", f"create bridge {wanted.name}")
            make(wanted)

        host.make_bridge = refuse

    return prepare


def without_names() -> None:
    """A disk that is full for the files of names of running servers, in a child."""
    write = names_files.write

    def refuse(folder: str, *rest: Any) -> None:
        if not folder.endswith("added"):
            raise OSError(errno.ENOSPC, "No space left on device")
        write(folder, *rest)

    names_files.write = refuse


def test_an_apply_of_networks_whose_spawner_is_killed_fails_and_the_next_one_mends_it(base: Base) -> None:
    made = base.make(BEFORE)
    base.remove(BEFORE)
    steps = Apply(base.lab, BEFORE).steps()
    base.remove(BEFORE)
    spawned = next(number for number, step in enumerate(steps, 1) if step == "Spawn")
    for step in (spawned, spawned + 1):
        assert Apply(base.lab, BEFORE).loses_its_spawner_after(step)
        assert Apply(base.lab, BEFORE).run() == 0, f"after step {step}"
        base.holds(made, step)
        base.remove(BEFORE)
