"""Compare wanted interfaces and links with what the kernel has, field by field."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from vsprov.model.values.units import format_rate
from vsprov.plan.network.changes.servers import ServerNetwork
from vsprov.plan.network.state import HostLink, Interface, Route
from vsprov.plan.network.steps import ChangeInterface, RemoveInterface
from vsprov.plan.plan import PathChange, show
from vsprov.plan.steps import Step


class InterfaceDelta(Struct, frozen=True):
    """The differences between wanted and observed interfaces, and the steps that remove them."""

    paths: tuple[PathChange, ...] = ()
    steps: tuple[Step, ...] = ()


def interfaces(server: str, network: ServerNetwork, former: Iterable[str]) -> InterfaceDelta:
    """What differs in a running server; `former` are the names of the interfaces in its record."""
    paths: list[PathChange] = []
    removed: list[Step] = []
    made: list[Step] = []
    pairs = _pairs(network.wanted, network.seen)
    paired = {id(seen) for _, seen in pairs if seen}
    recorded = set(former)
    for seen in network.seen.values():
        if id(seen) not in paired and seen.alias == network.alias:
            paths.append(_path(_key(seen), _summary(seen, network), None))
            removed.append(RemoveInterface(server, seen))
    for want, found in pairs:
        if (impostor := network.seen.get(want.name)) and impostor is not found and id(impostor) not in paired:
            removed.append(RemoveInterface(server, impostor))  # the server made it after it had renamed ours
        if found is None:
            before = "missing" if (want.altname or want.name) in recorded else None
            paths.append(_path(_key(want), before, _summary(want, network)))
            made += network.make(server, want)
        elif _is_another(want, found) or _is_swapped(want, found, pairs):
            paths.append(_path(_key(want), _summary(found, network), _summary(want, network)))
            removed.append(RemoveInterface(server, found))
            made += network.make(server, want)
        elif different := list(_differences(want, found, network)):
            paths += different
            made.append(ChangeInterface(server, want, found))
    return InterfaceDelta(tuple(paths), (*removed, *made))


# What follows from the network that an interface is connected to, and from the pool of its server.
OF_NETWORKS = ("parent", "port_isolated", "mtu")
OF_POOLS = ("egress_pool", "ingress_pool", "share")


def restricted(network: ServerNetwork, names: Collection[str]) -> ServerNetwork:
    """A server's network of which only these fields are wanted, of interfaces with an end on the host."""
    wanted = {each.link: each for each in network.wanted.values() if each.link}
    seen = {name: each for name, each in network.seen.items() if each.link in wanted} if names else {}
    like = {
        name: replace(each, **{one: getattr(wanted[each.link], one) for one in names})
        for name, each in seen.items()
    }
    return replace(network, wanted=like, seen=seen)


def _pairs(
    wanted: Mapping[str, Interface], seen: Mapping[str, Interface]
) -> list[tuple[Interface, Interface | None]]:
    """Each wanted interface with the one that it is, even if the server has renamed that."""
    by_link = {each.link: each for each in seen.values() if each.link}
    out: list[tuple[Interface, Interface | None]] = []
    for name, want in wanted.items():
        found = by_link.get(want.link) if want.link else None
        found = found or seen.get(name)
        if found is None and not want.link:
            same = (each for each in seen.values() if each.alias == want.alias and each.mac == want.mac)
            found = next(same, None) if want.mac else None
        out.append((want, found))
    return out


def _is_swapped(
    want: Interface, seen: Interface, pairs: Iterable[tuple[Interface, Interface | None]]
) -> bool:
    """Whether the name of an interface is that of another of ours: the server has exchanged their names."""
    others = {found.name for _, found in pairs if found and found is not seen}
    return bool({want.name, seen.name} & others)


def _is_another(want: Interface, seen: Interface) -> bool:
    """Whether an interface has to be replaced: the kernel cannot make it the other."""
    if want.kind != seen.kind or want.link != seen.link:
        return True
    return want.kind != "veth" and (want.parent, want.mode) != (seen.parent, seen.mode)


def _hides_addresses(want: Interface | HostLink, seen: Interface | HostLink) -> bool:
    """Whether addresses are only missing because the link is down, which takes their routes away."""
    return want.up and not seen.up and seen.addresses <= want.addresses


def _comparable(want: Interface, seen: Interface) -> Interface:
    """What was seen, without differences that vsprov leaves alone.

    A macvlan or ipvlan without addresses in the manifest gets them from the network that it is connected to.
    """
    out = seen
    if want.kind != "veth" and not want.addresses:
        out = replace(out, addresses=want.addresses, routes=want.routes)
    return replace(out, mac=want.mac) if want.kind == "ipvlan" else out


def _differences(want: Interface, found: Interface, network: ServerNetwork) -> Iterable[PathChange]:
    seen = _comparable(want, found)
    if want == seen:
        return
    if _hides_addresses(want, seen) and seen.routes <= want.routes:
        seen = replace(seen, addresses=want.addresses, routes=want.routes)
    key = _key(want)
    for name, (path, write) in _FIELDS.items():
        before, after = getattr(seen, name), getattr(want, name)
        if before != after:
            if name in ("parent", "egress_pool", "ingress_pool"):
                before, after = (network.names_of_links.get(link, link) for link in (before, after))
            whole = path if path.startswith("spec.") else f"{key}.{path}"
            yield _path(
                whole.replace("spec.", "status.", 1) if name in _STATUS else whole,
                write(before),
                write(after),
            )


def _key(interface: Interface) -> str:
    return f"spec.interfaces[{interface.altname or interface.name}]"


def _summary(interface: Interface, network: ServerNetwork) -> str:
    """An interface in one line: its network, or the type of that, and its addresses."""
    of = network.names_of_links.get(interface.parent, "")
    of = of or (interface.kind if interface.kind != "veth" else interface.parent or "routed")
    return " ".join([of, *sorted(interface.addresses)])


def _path(path: str, before: Any, after: Any) -> PathChange:
    texts = [", ".join(value) or "—" if isinstance(value, list) else show(value) for value in (before, after)]
    return PathChange(path, before, after, "live", (texts[0], texts[1]))


def _same(value: Any) -> Any:
    return value


def _optional(value: Any) -> Any:
    return value or None


def _state(up: Any) -> str:
    return "up" if up else "down"


def route_text(route: Route) -> str:
    """A route as ip-route(8) shows it."""
    return f"{route.to} via {route.via}" if route.via else route.to


def _route_texts(routes: Any) -> list[str]:
    return [route_text(route) for route in sorted(routes)]


def _rate(rate: Any) -> str:
    return "max" if rate is None else format_rate(rate)


# {field: (key of the interface in the manifest, or a whole path; how its values are shown)}
_FIELDS: dict[str, tuple[str, Callable[[Any], Any]]] = {
    "name": ("name", _same),
    "altname": ("altname", _optional),
    "parent": ("network", _optional),
    "mac": ("mac", _same),
    "mtu": ("mtu", _same),
    "addresses": ("addresses", sorted),
    "routes": ("routes", _route_texts),
    "up": ("up", _state),
    "link_up": ("hostUp", _state),
    "alias": ("mark", _optional),
    "link_altname": ("hostAltname", _optional),
    "port_isolated": ("isolated", _same),
    "hairpin": ("hairpin", _same),
    "settings": ("port", sorted),
    "host_routes": ("hostRoutes", sorted),
    "proxy": ("proxy", _optional),
    "egress": ("spec.resources.network.egress", _rate),
    "ingress": ("spec.resources.network.ingress", _rate),
    "egress_pool": ("sharedEgress", _optional),
    "ingress_pool": ("sharedIngress", _optional),
    "share": ("share", _optional),
}
# Fields that no key of the manifest stands for by itself.
_STATUS = {
    "name",
    "altname",
    "up",
    "link_up",
    "alias",
    "link_altname",
    "port_isolated",
    "hairpin",
    "settings",
    "host_routes",
    "proxy",
    "egress_pool",
    "ingress_pool",
    "share",
}


def bridge(want: HostLink, found: HostLink) -> list[PathChange]:
    """What differs in the bridge of a network."""
    out = []
    seen = visible(found)
    if _hides_addresses(want, seen):
        seen = replace(seen, addresses=want.addresses)
    for name, path, write in (
        ("addresses", "status.addresses", sorted),
        ("mtu", "spec.mtu", _same),
        ("mac", "status.mac", _same),
        ("altnames", "status.altnames", sorted),
        ("up", "status.link", _state),
        ("settings", "status.settings", sorted),
    ):
        before, after = getattr(seen, name), getattr(want, name)
        if before != after:
            out.append(_path(path, write(before), write(after)))
    return out


def visible(link: HostLink) -> HostLink:
    """A bridge without what vsprov does not set: its link-local addresses, its index, its ports' settings."""
    own = frozenset(text for text in link.addresses if not text.lower().startswith("fe80:"))
    return replace(link, addresses=own, index=0)
