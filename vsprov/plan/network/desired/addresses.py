"""The addresses of servers: static ones as in the manifest, `auto` ones chosen from the subnets. Pure.

An address once given stays: it is in the server's record and is preferred as long as it is in a subnet of the
network. A new one begins at a hash of the names and moves on to the next free one, so that it does not depend
on the order in which servers are applied unless two of them meet. Subnets are never enumerated.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Literal

from msgspec import Struct, field

from vsprov.model.values.addresses import AUTO, Address, address_of, subnet_of
from vsprov.plan.network.naming import _hash


def within(address: Address, subnets: Iterable[str]) -> str:
    """The subnet that an address is in; "" if in none."""
    return next((text for text in subnets if address in subnet_of(text)), "")


def family(text: str) -> Literal[4, 6]:
    """4 or 6, of an address or subnet."""
    return 6 if ":" in text else 4


def without_prefix(cidr: str) -> str:
    return cidr.partition("/")[0]


def single(address: str) -> str:
    """An address as the subnet that has only it."""
    return f"{without_prefix(address)}/{128 if ':' in address else 32}"


def gateway(text: str) -> str:
    """The first address of a subnet: that of the gateway."""
    net = subnet_of(text)
    return str(net[1] if net.num_addresses > 2 else net[0])


def overlap(one: str, other: str) -> bool:
    """Whether two subnets, in CIDR notation, have an address in common."""
    a, b = subnet_of(one), subnet_of(other)
    return a.version == b.version and a.overlaps(b)


class Place(Struct, frozen=True):
    """An interface that needs addresses.

    `given` are those of the manifest, `recorded` those that it was given before. `subnets` are those of its
    network. `single`: addresses have the prefix length 32 or 128, because each is routed by itself.
    """

    server: str
    interface: str
    network: str
    given: tuple[str, ...]
    subnets: tuple[str, ...]
    recorded: tuple[str, ...] = ()
    single: bool = False


class Refusal(Struct, frozen=True):
    """Why an interface cannot have an address."""

    place: Place
    message: str
    hint: str = ""


class Assignment(Struct):
    """The addresses of all interfaces, by server and interface, and who has each of them."""

    addresses: dict[str, dict[str, tuple[str, ...]]] = field(default_factory=dict)
    taken: dict[Address, str] = field(default_factory=dict)
    refusals: list[Refusal] = field(default_factory=list)

    def take(self, addresses: Iterable[str], owner: str) -> None:
        """Reserve addresses that interfaces must not have."""
        for text in addresses:
            self.taken.setdefault(address_of(text), owner)


def assign(places: Sequence[Place], reserved: Mapping[str, Iterable[str]]) -> Assignment:
    """Give every interface its addresses: first the static ones, then those given before, then new ones.

    `reserved` are addresses that are taken, by who has them.
    """
    out = Assignment()
    for owner, texts in reserved.items():
        out.take(texts, owner)
    chosen: dict[tuple[str, str], list[str]] = {}
    for place in places:
        chosen[place.server, place.interface] = [
            _cidr(place, text) for text in place.given if text != AUTO and _claim(out, place, text)
        ]
    automatic = [place for place in places if AUTO in place.given]
    for place in automatic:
        have = chosen[place.server, place.interface]
        for text in place.recorded:
            address = address_of(text)
            net = within(address, place.subnets)
            if net and net in _without(place, have) and _usable(address, net) and address not in out.taken:
                out.taken[address] = f"Server/{place.server}"
                have.append(_cidr(place, text))
    used = _count(out.taken, {net for place in automatic for net in place.subnets})
    for place in automatic:
        have = chosen[place.server, place.interface]
        for net in _without(place, have):
            if found := _free(out.taken, place, net, used[net]):
                out.taken[found] = f"Server/{place.server}"
                used[net] += 1
                have.append(_cidr(place, str(found)))
            else:
                message = f"no address is left in subnet {net} of network {place.network}"
                out.refusals.append(Refusal(place, message, "add a subnet to the network, or remove servers"))
    for place in places:
        found_all = chosen[place.server, place.interface]
        out.addresses.setdefault(place.server, {})[place.interface] = tuple(found_all)
    return out


def _claim(out: Assignment, place: Place, text: str) -> bool:
    """Take a static address; adds a refusal if somebody else has it or it fits no subnet."""
    address = address_of(text)
    if owner := out.taken.get(address):
        out.refusals.append(Refusal(place, f"{address} is already an address of {owner}"))
        return False
    out.taken[address] = f"Server/{place.server}"
    net = within(address, place.subnets)
    if place.subnets and not net:
        subnets = ", ".join(place.subnets)
        out.refusals.append(
            Refusal(place, f"{address} is in no subnet of network {place.network} ({subnets})")
        )
        return False
    if net and not place.single and (what := _reserved(address, net)):
        out.refusals.append(Refusal(place, f"{address} is the {what} address of subnet {net}"))
        return False
    return True


def _reserved(address: Address, net: str) -> str:
    """What an address of a subnet is that no host can have; "" if it can."""
    whole = subnet_of(net)
    if whole.num_addresses <= 2:
        return ""
    if address == whole.network_address:
        return "network" if whole.version == 4 else "router anycast"
    return "broadcast" if whole.version == 4 and address == whole.broadcast_address else ""


def _cidr(place: Place, text: str) -> str:
    """An address with the prefix length that it has in the server."""
    address = address_of(text)
    if place.single:
        return single(str(address))
    if "/" in text and not within(address, place.subnets):
        return f"{address}/{text.partition('/')[2]}"
    net = within(address, place.subnets)
    return f"{address}/{subnet_of(net).prefixlen}" if net else single(str(address))


def _without(place: Place, have: Iterable[str]) -> list[str]:
    """The subnets of the interface's network that it has no address in."""
    had = {within(address_of(text), place.subnets) for text in have}
    return [net for net in place.subnets if net not in had]


def _bounds(net: str) -> tuple[int, int]:
    """(offset of the first address that servers may have automatically, end)."""
    whole = subnet_of(net)
    if whole.num_addresses <= 2:
        return 0, whole.num_addresses
    return 2, whole.num_addresses - (
        whole.version == 4
    )  # not the network, the gateway, the broadcast address


def _usable(address: Address, net: str) -> bool:
    first, end = _bounds(net)
    return first <= int(address) - int(subnet_of(net).network_address) < end


def _count(taken: Iterable[Address], nets: Iterable[str]) -> dict[str, int]:
    """How many of the addresses for servers in each subnet are taken."""
    everything = list(taken)
    return {
        net: sum(1 for address in everything if address in subnet_of(net) and _usable(address, net))
        for net in nets
    }


def _free(taken: Mapping[Address, str], place: Place, net: str, used: int) -> Address | None:
    whole = subnet_of(net)
    first, end = _bounds(net)
    size = end - first
    if used >= size:
        return None
    for offset in _offsets(_hash("address", place.network, place.server, place.interface, net), size):
        address = whole[first + offset]
        if address not in taken:
            return address
    return None


def _offsets(start: int, size: int) -> Iterator[int]:
    for step in range(size):
        yield (start + step) % size
