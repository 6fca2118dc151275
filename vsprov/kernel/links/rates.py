"""Queueing disciplines that limit what servers send and receive.

What a server receives is limited by a token bucket, tc-tbf(8), on the host's end of its veth. What it sends
arrives there, and arriving packets cannot be queued: they are redirected to an intermediate device (ifb) with
a token bucket of its own, and return from it. Both are out of reach of the server. Netfilter's hook `ingress`
of family netdev does not see redirected packets when they return; those of bridge and inet do.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator, Mapping
from struct import Struct, pack, unpack_from

from vsprov.kernel.links import netlink
from vsprov.kernel.links.netlink import Attributes, Request, Socket, attribute, attributes, nest, number, text
from vsprov.plan.network.rates import bucket, shaper

TC = Struct("=BxxxiIII")
_RATE = Struct("=BBHhHI")
_TCA_KIND, _TCA_OPTIONS = 1, 2
_TCA_TBF_PARMS, _TCA_TBF_RATE64, _TCA_TBF_BURST = 1, 4, 6
_TCA_U32_SEL, _TCA_U32_ACT, _TC_U32_TERMINAL = 5, 7, 1
_TCA_ACT_KIND, _TCA_ACT_OPTIONS, _TCA_MIRRED_PARMS = 1, 2, 2
_TC_ACT_STOLEN, _TCA_EGRESS_REDIR, _LINKLAYER_ETHERNET = 4, 1, 1
_ROOT, _INGRESS, _INGRESS_HANDLE = 0xFFFFFFFF, 0xFFFFFFF1, 0xFFFF0000
_ALL_PROTOCOLS = 0x0300  # ETH_P_ALL in network byte order
_LARGEST = 0xFFFFFFFF
_REPLACE = netlink.NLM_F_CREATE | netlink.NLM_F_REPLACE
_ABSENT = (errno.ENOENT, errno.EINVAL, errno.ENODEV)


def limit(index: int, link: str, rate: int, mtu: int) -> Request:
    """Limit what leaves on a link to `rate` bits per second."""
    wanted = bucket(rate, mtu)
    parameters = _RATE.pack(0, _LINKLAYER_ETHERNET, 0, 0, 0, min(wanted.rate, _LARGEST))
    parameters += bytes(_RATE.size) + pack("=III", wanted.limit, 0, 0)
    options = [attribute(_TCA_TBF_PARMS, parameters), attribute(_TCA_TBF_BURST, wanted.burst)]
    if wanted.rate > _LARGEST:
        options.append(attribute(_TCA_TBF_RATE64, pack("=Q", wanted.rate)))
    body = TC.pack(0, index, 0, _ROOT, 0) + attribute(_TCA_KIND, "tbf") + nest(_TCA_OPTIONS, *options)
    return Request(f"limit {link} to {rate} bit/s", netlink.RTM_NEWQDISC, _REPLACE, body)


def unlimit(index: int, link: str) -> Request:
    """Take the limit of what leaves on a link away."""
    tried = f"remove the limit of {link}"
    return Request(tried, netlink.RTM_DELQDISC, 0, TC.pack(0, index, 0, _ROOT, 0), _ABSENT)


def redirect(index: int, link: str, target: int) -> Iterator[Request]:
    """Redirect what arrives on a link to the link with index `target`, instead of anything that was there."""
    yield stop_redirect(index, link)
    body = TC.pack(0, index, _INGRESS_HANDLE, _INGRESS, 0) + attribute(_TCA_KIND, "ingress")
    create = netlink.NLM_F_CREATE | netlink.NLM_F_EXCL
    yield Request(f"add an ingress queue to {link}", netlink.RTM_NEWQDISC, create, body)
    everything = pack("=BBBxHHhhI", _TC_U32_TERMINAL, 0, 1, 0, 0, 0, 0, 0) + bytes(16)
    mirred = pack("=IIiiiiI", 0, 0, _TC_ACT_STOLEN, 0, 0, _TCA_EGRESS_REDIR, target)
    action = nest(
        1,
        attribute(_TCA_ACT_KIND, "mirred"),
        nest(_TCA_ACT_OPTIONS, attribute(_TCA_MIRRED_PARMS, mirred)),
    )
    options = nest(_TCA_OPTIONS, attribute(_TCA_U32_SEL, everything), nest(_TCA_U32_ACT, action))
    body = TC.pack(0, index, 0, _INGRESS_HANDLE, 1 << 16 | _ALL_PROTOCOLS)
    body += attribute(_TCA_KIND, "u32") + options
    yield Request(f"redirect what arrives on {link}", netlink.RTM_NEWTFILTER, create, body)


def stop_redirect(index: int, link: str) -> Request:
    body = TC.pack(0, index, _INGRESS_HANDLE, _INGRESS, 0)
    return Request(f"remove the ingress queue of {link}", netlink.RTM_DELQDISC, 0, body, _ABSENT)


def observe(found: Socket, names: Mapping[int, str]) -> dict[str, tuple[int | None, int | None]]:
    """{link: (egress, ingress)} of limited links, from the point of view of the server at the other end.

    A limit whose queueing discipline, filter or intermediate device is not as it was made is None.
    """
    limits: dict[str, int] = {}
    redirected: list[int] = []
    for _, message in found.dump(netlink.RTM_GETQDISC, TC.pack(0, 0, 0, 0, 0)):
        _, index, _, parent, _ = TC.unpack_from(message)
        given = attributes(message, TC.size)
        kind = text(given.get(_TCA_KIND))
        if parent == _ROOT and kind == "tbf" and index in names:
            limits[names[index]] = _rate(given)
        elif parent == _INGRESS and index in names and shaper(names[index]) in names.values():
            redirected.append(index)
    out: dict[str, tuple[int | None, int | None]] = {name: (None, rate) for name, rate in limits.items()}
    for index in redirected:
        name = names[index]
        if names.get(_target(found, index)) == shaper(name):
            out[name] = (limits.get(shaper(name)), limits.get(name))
    return out


def _rate(given: Attributes) -> int:
    """The rate of a token bucket in bits per second."""
    options = attributes(given[_TCA_OPTIONS])
    if _TCA_TBF_RATE64 in options:
        return 8 * int(unpack_from("=Q", options[_TCA_TBF_RATE64])[0])
    return 8 * int(_RATE.unpack_from(options[_TCA_TBF_PARMS])[5])


def _target(found: Socket, index: int) -> int:
    """The index of the link that everything which arrives on a link is redirected to, 0 for none."""
    for _, message in found.dump(netlink.RTM_GETTFILTER, TC.pack(0, index, 0, _INGRESS_HANDLE, 0)):
        given = attributes(message, TC.size)
        options = attributes(given[_TCA_OPTIONS]) if _TCA_OPTIONS in given else {}
        if text(given.get(_TCA_KIND)) != "u32" or _TCA_U32_ACT not in options:
            continue
        action = attributes(attributes(options[_TCA_U32_ACT]).get(1, memoryview(b"")))
        if text(action.get(_TCA_ACT_KIND)) == "mirred" and _TCA_ACT_OPTIONS in action:
            parameters = attributes(action[_TCA_ACT_OPTIONS])[_TCA_MIRRED_PARMS]
            return number(parameters[24:28])
    return 0
