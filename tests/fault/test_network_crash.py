"""vsprov dies at every sort of step that makes, changes and removes networks; what comes next mends it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests import world
from tests.e2e.networks import idle, network
from tests.fault.crashes import BYSTANDER, Base, every_step
from tests.fault.faults import Apply, footprint
from tests.features import requires
from tests.instance import own_instance
from tests.lab import Document, Lab, image

BEFORE: tuple[Document, ...] = (
    image(),
    network("lan", "10.20.0.0/24", "fd20::/64"),
    idle("live", "lan", ports=["8080:80"]),
    idle("restarted", "lan", resources={"network": {"egress": "10Mbit"}}),
)
AFTER: tuple[Document, ...] = (
    image(),
    network("lan", "10.20.0.0/24", "fd20::/64", mtu=1400),
    network("back", "10.21.0.0/24", nat=False, isolated=True),
    idle("live", "lan", {"name": "eth1", "network": "back", "gateway": False}, ports=["8081:80/udp"],
         firewall={"ingress": [{"protocol": "tcp", "ports": ["80"]}]}),
    idle("restarted", "back", command=("sleep", "123456"), resources={"network": {"ingress": "20Mbit"}}),
    idle("added", "lan"),
)  # fmt: skip


@pytest.fixture(scope="module")
def base() -> Iterator[Base]:
    requires("overlay", "ip", "nft", "nft_bridge", "bridge", "veth")
    with world.made() as made, own_instance(network=made.host) as instance:
        lab = Lab(instance)
        lab.apply(*BYSTANDER, flags=("--set-name", "elsewhere"))
        yield Base(lab, lab.init("bystander"), footprint(lab))


def test_networks_that_died_while_being_made_are_finished_by_the_next_apply(base: Base) -> None:
    made = base.make(BEFORE)
    base.remove(BEFORE)

    def mend(step: int) -> None:
        assert Apply(base.lab, BEFORE).run() == 0, f"after step {step}"
        base.holds(made, step)
        base.remove(BEFORE)

    assert every_step(base, Apply(base.lab, BEFORE), lambda: None, mend) > 20


def test_networks_that_died_while_being_made_can_be_removed(base: Base) -> None:
    def mend(step: int) -> None:
        assert Apply(base.lab, BEFORE, remove=True).run() == 0, f"after step {step}"
        base.holds(base.empty, step)

    assert every_step(base, Apply(base.lab, BEFORE), lambda: None, mend) > 20


@pytest.mark.slow
def test_a_change_of_networks_that_died_is_finished_by_the_next_apply(base: Base) -> None:
    changed = base.make(AFTER)
    base.remove(AFTER)

    def mend(step: int) -> None:
        assert Apply(base.lab, AFTER).run() == 0, f"after step {step}"
        base.holds(changed, step)
        base.remove(AFTER)

    assert every_step(base, Apply(base.lab, AFTER), lambda: base.make(BEFORE), mend) > 10


def test_a_removal_of_networks_that_died_is_finished_by_the_next(base: Base) -> None:
    def mend(step: int) -> None:
        assert Apply(base.lab, BEFORE, remove=True).run() == 0, f"after step {step}"
        base.holds(base.empty, step)

    change = Apply(base.lab, BEFORE, remove=True)
    assert every_step(base, change, lambda: base.make(BEFORE), mend) >= 5
