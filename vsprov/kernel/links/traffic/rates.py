"""Queueing disciplines that limit what servers send and receive.

What a server receives is limited by a token bucket, tc-tbf(8), on the host's end of its veth. What it sends
arrives there, and arriving packets cannot be queued: they are redirected to an intermediate device (ifb) with
a token bucket of its own, and return from it. Both are out of reach of the server. Netfilter's hook `ingress`
of family netdev does not see redirected packets when they return; those of bridge and inet do.
"""

from __future__ import annotations

import errno
from collections.abc import Mapping
from struct import pack, unpack_from

from msgspec import Struct, field

from vsprov.kernel.links import netlink
from vsprov.kernel.links.netlink import Attributes, Request, Socket, attribute, attributes, nest, number, text
from vsprov.kernel.links.traffic import messages, pools
from vsprov.kernel.links.traffic.messages import ALL_PROTOCOLS, EVERYTHING, TC, TCA_KIND, TCA_OPTIONS
from vsprov.plan.network.rates import bucket, shaper

_TCA_TBF_PARMS, _TCA_TBF_RATE64, _TCA_TBF_BURST = 1, 4, 6
_TCA_U32_SEL, _TCA_U32_ACT = 5, 7
_TCA_ACT_KIND, _TCA_ACT_OPTIONS, _TCA_MIRRED_PARMS = 1, 2, 2
_TC_ACT_STOLEN, _TCA_EGRESS_REDIR = 4, 1
_ROOT, _INGRESS, _INGRESS_HANDLE = 0xFFFFFFFF, 0xFFFFFFF1, 0xFFFF0000
ARRIVING, LEAVING = 0xFFFFFFF2, 0xFFFFFFF3  # where filters are: TC_H_MIN_INGRESS, TC_H_MIN_EGRESS
_OURS = "vs"  # what names of the host's ends of interfaces begin with
_LARGEST = 0xFFFFFFFF
_REPLACE = netlink.NLM_F_CREATE | netlink.NLM_F_REPLACE
_ABSENT = (errno.ENOENT, errno.EINVAL, errno.ENODEV)


def limit(index: int, link: str, rate: int, mtu: int) -> Request:
    """Limit what leaves on a link to `rate` bits per second."""
    wanted = bucket(rate, mtu)
    parameters = messages.rate_spec(wanted.rate)
    parameters += messages.NO_RATE + pack("=III", wanted.limit, 0, 0)
    options = [attribute(_TCA_TBF_PARMS, parameters), attribute(_TCA_TBF_BURST, wanted.burst)]
    if wanted.rate > _LARGEST:
        options.append(attribute(_TCA_TBF_RATE64, pack("=Q", wanted.rate)))
    body = TC.pack(0, index, 0, _ROOT, 0) + attribute(TCA_KIND, "tbf") + nest(TCA_OPTIONS, *options)
    return Request(f"limit {link} to {rate} bit/s", netlink.RTM_NEWQDISC, _REPLACE, body)


def unlimit(index: int, link: str) -> Request:
    """Take the limit of what leaves on a link away."""
    tried = f"remove the limit of {link}"
    return Request(tried, netlink.RTM_DELQDISC, 0, TC.pack(0, index, 0, _ROOT, 0), _ABSENT)


def hook(index: int, link: str, kind: str) -> Request:
    """Have what arrives (`ingress`), or also what leaves (`clsact`), go through filters."""
    body = TC.pack(0, index, _INGRESS_HANDLE, _INGRESS, 0) + attribute(TCA_KIND, kind)
    create = netlink.NLM_F_CREATE | netlink.NLM_F_EXCL
    return Request(f"add an ingress queue to {link}", netlink.RTM_NEWQDISC, create, body)


def redirect(index: int, link: str, place: int, target: int) -> Request:
    """Redirect what arrives or leaves to the link with index `target`."""
    mirred = pack("=IIiiiiI", 0, 0, _TC_ACT_STOLEN, 0, 0, _TCA_EGRESS_REDIR, target)
    action = nest(
        1,
        attribute(_TCA_ACT_KIND, "mirred"),
        nest(_TCA_ACT_OPTIONS, attribute(_TCA_MIRRED_PARMS, mirred)),
    )
    options = nest(TCA_OPTIONS, attribute(_TCA_U32_SEL, EVERYTHING), nest(_TCA_U32_ACT, action))
    # Of different priorities: u32 shows those of both places if they are of the same one (u32_walk).
    body = TC.pack(0, index, 0, place, (1 if place == ARRIVING else 2) << 16 | ALL_PROTOCOLS)
    body += attribute(TCA_KIND, "u32") + options
    what = "arrives on" if place == ARRIVING else "leaves on"
    create = netlink.NLM_F_CREATE | netlink.NLM_F_EXCL
    return Request(f"redirect what {what} {link}", netlink.RTM_NEWTFILTER, create, body)


def stop_redirect(index: int, link: str) -> Request:
    body = TC.pack(0, index, _INGRESS_HANDLE, _INGRESS, 0)
    return Request(f"remove the ingress queue of {link}", netlink.RTM_DELQDISC, 0, body, _ABSENT)


class Limits(Struct):
    """The limits of a link, from the point of view of the server at the other end; see `HostLink`.

    A limit whose queueing discipline, filter, class or intermediate device is not as it was made is None.
    """

    egress: int | None = None
    ingress: int | None = None
    egress_pool: str = ""
    ingress_pool: str = ""
    share: int = 0
    shares: Mapping[int, str] = field(default_factory=dict)


def observe(found: Socket, names: Mapping[int, str]) -> dict[str, Limits]:
    """The limits of limited links, by name."""
    out: dict[str, Limits] = {}
    redirected: list[tuple[int, bool]] = []
    shares: dict[str, dict[str, tuple[int, int | None]]] = {}
    for _, message in found.dump(netlink.RTM_GETQDISC, TC.pack(0, 0, 0, 0, 0)):
        _, index, handle, parent, _ = TC.unpack_from(message)
        given = attributes(message, TC.size)
        kind = text(given.get(TCA_KIND))
        if index not in names:
            continue
        name = names[index]
        if parent == _ROOT and kind == "tbf":
            out.setdefault(name, Limits()).ingress = _rate(given)
        elif parent == _ROOT and kind == "htb" and handle == pools.HANDLE:
            rate, members = pools.observe(found, index)
            lowest_last = sorted(members.items(), reverse=True)  # the kernel tries filters from the lowest up
            shares[name] = {link: (number, ceil) for number, (link, ceil) in lowest_last if link}
            by_number = {number: link for number, (link, _) in members.items()}
            out[name] = Limits(ingress=rate, shares=by_number)
        elif parent == _INGRESS and name.startswith(_OURS):
            redirected.append((index, kind == "clsact"))
    for index, both in redirected:
        name = names[index]
        limits = out.setdefault(name, Limits())
        target = names.get(_target(found, index, ARRIVING), "")
        if target == shaper(name):
            limits.egress = out[target].ingress if target in out else None
        elif name in shares.get(target, {}):
            limits.egress_pool = target
            limits.share, limits.egress = shares[target][name]
        target = names.get(_target(found, index, LEAVING), "") if both else ""
        if name in shares.get(target, {}):
            number, _ = shares[target][name]
            # Both are of one number, else one of them is made anew.
            if not limits.egress_pool or limits.share == number:
                limits.ingress_pool, limits.share = target, number
    return out


def _rate(given: Attributes) -> int:
    """The rate of a token bucket in bits per second."""
    options = attributes(given[TCA_OPTIONS])
    if _TCA_TBF_RATE64 in options:
        return 8 * int(unpack_from("=Q", options[_TCA_TBF_RATE64])[0])
    return 8 * messages.rate_of(options[_TCA_TBF_PARMS])


def _target(found: Socket, index: int, place: int) -> int:
    """The index of the link that everything which arrives or leaves is redirected to, 0 for none."""
    for _, message in found.dump(netlink.RTM_GETTFILTER, TC.pack(0, index, 0, place, 0)):
        given = attributes(message, TC.size)
        options = attributes(given[TCA_OPTIONS]) if TCA_OPTIONS in given else {}
        if text(given.get(TCA_KIND)) != "u32" or _TCA_U32_ACT not in options:
            continue
        action = attributes(attributes(options[_TCA_U32_ACT]).get(1, memoryview(b"")))
        if text(action.get(_TCA_ACT_KIND)) == "mirred" and _TCA_ACT_OPTIONS in action:
            parameters = attributes(action[_TCA_ACT_OPTIONS])[_TCA_MIRRED_PARMS]
            return number(parameters[24:28])
    return 0
