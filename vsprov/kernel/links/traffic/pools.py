"""Rates that the servers of a pool share.

Each direction has an intermediate device (ifb) with a hierarchy of token buckets, tc-htb(8): one class with
the rate of the pool, and below it one for each link, which takes turns with the others and has a ceiling of
its own. What arrives on a link, or leaves it, is redirected there, and told from others by the link that it
comes from: the kernel remembers that for the way back.
"""

from __future__ import annotations

import errno
from collections.abc import Iterable, Iterator
from struct import Struct, pack, unpack_from

from vsprov.kernel.links import netlink
from vsprov.kernel.links.netlink import Attributes, Request, Socket, attribute, attributes, nest, number, text
from vsprov.kernel.links.traffic import messages
from vsprov.kernel.links.traffic.messages import TC
from vsprov.plan.network.rates import bucket

HANDLE = 0x76710000  # "vq"
_ROOT = 0xFFFFFFFF
_WHOLE = HANDLE | 0xFFFF  # the class that all links borrow from
_NODE = 0x80000000  # the first table of u32
_OPTIONS = Struct("=12s12sIIIII")
_TCA_HTB_PARMS, _TCA_HTB_INIT, _TCA_HTB_RATE64, _TCA_HTB_CEIL64 = 1, 2, 6, 7
_TCA_U32_CLASSID, _TCA_U32_SEL, _TCA_U32_INDEV = 1, 5, 8
_TICK = 64  # nanoseconds; net/pkt_sched.h
_LARGEST = 0xFFFFFFFF
_UNLIMITED = (1 << 40) + 1  # bytes per second; the class above limits it
_GUARANTEED = 125  # bytes per second: htb wants a rate; all else is borrowed
_TURN = 1 << 16  # bytes: one packet before segmentation
_QUEUE = 256 << 10  # bytes
_ABSENT = (errno.ENOENT, errno.EINVAL, errno.ENODEV)
_CREATE = netlink.NLM_F_CREATE | netlink.NLM_F_EXCL
_REPLACE = netlink.NLM_F_CREATE | netlink.NLM_F_REPLACE


def limit(index: int, link: str, rate: int) -> Iterator[Request]:
    """Give an intermediate device its queue, instead of anything that was there, and its rate."""
    tried = f"limit {link} to {rate} bit/s"
    yield Request(tried, netlink.RTM_DELQDISC, 0, TC.pack(0, index, 0, _ROOT, 0), _ABSENT)
    init = attribute(_TCA_HTB_INIT, pack("=IIIII", 3, 10, 0, 0, 0))
    body = TC.pack(0, index, HANDLE, _ROOT, 0) + attribute(messages.TCA_KIND, "htb")
    yield Request(tried, netlink.RTM_NEWQDISC, _CREATE, body + nest(messages.TCA_OPTIONS, init))
    yield set_rate(index, link, rate)


def set_rate(index: int, link: str, rate: int) -> Request:
    """Set the rate that all links share."""
    whole = bucket(rate, 0)
    return _class(index, f"limit {link} to {rate} bit/s", _WHOLE, HANDLE, whole.rate, whole.rate)


def join(index: int, pool: str, member: str, share: int, ceil: int | None) -> Iterator[Request]:
    """Give a link its class on the intermediate device with `index`, instead of another with its number."""
    tried = f"give {member} a share of {pool}"
    yield _remove_filter(index, pool, share)
    yield _class(index, tried, HANDLE | share, _WHOLE, _GUARANTEED, ceil // 8 if ceil else _UNLIMITED)
    fifo = attribute(messages.TCA_KIND, "bfifo") + attribute(messages.TCA_OPTIONS, _QUEUE)
    queue = TC.pack(0, index, share << 16, HANDLE | share, 0) + fifo
    yield Request(tried, netlink.RTM_NEWQDISC, _REPLACE, queue)
    options = nest(
        messages.TCA_OPTIONS,
        attribute(_TCA_U32_CLASSID, HANDLE | share),
        attribute(_TCA_U32_INDEV, member),
        attribute(_TCA_U32_SEL, messages.EVERYTHING),
    )
    yield Request(tried, netlink.RTM_NEWTFILTER, _CREATE, _filter(index, share) + options)


def leave(index: int, pool: str, shares: Iterable[int]) -> Iterator[Request]:
    """Remove classes; nothing for those that do not exist."""
    for share in shares:
        yield _remove_filter(index, pool, share)
        tried = f"remove share {share} of {pool}"
        yield Request(tried, netlink.RTM_DELTCLASS, 0, TC.pack(0, index, HANDLE | share, _WHOLE, 0), _ABSENT)


def _filter(index: int, share: int) -> bytes:
    body = TC.pack(0, index, _NODE | share, HANDLE, 1 << 16 | messages.ALL_PROTOCOLS)
    return body + attribute(messages.TCA_KIND, "u32")


def _remove_filter(index: int, pool: str, share: int) -> Request:
    tried = f"remove the filter of share {share} of {pool}"
    return Request(tried, netlink.RTM_DELTFILTER, 0, _filter(index, share), _ABSENT)


def _class(index: int, tried: str, handle: int, parent: int, rate: int, ceil: int) -> Request:
    """A class, or the new rates of one that exists. Rates in bytes per second."""
    specs = [messages.rate_spec(each) for each in (rate, ceil)]
    bursts = [min(bucket(8 * each, 0).burst * 10**9 // each // _TICK, _LARGEST) for each in (rate, ceil)]
    parameters = _OPTIONS.pack(*specs, *bursts, _TURN, 0, 0)
    options = [attribute(_TCA_HTB_PARMS, parameters)]
    for kind, each in ((_TCA_HTB_RATE64, rate), (_TCA_HTB_CEIL64, ceil)):
        if each > _LARGEST:
            options.append(attribute(kind, pack("=Q", each)))
    body = TC.pack(0, index, handle, parent, 0) + attribute(messages.TCA_KIND, "htb")
    body += nest(messages.TCA_OPTIONS, *options)
    return Request(tried, netlink.RTM_NEWTCLASS, netlink.NLM_F_CREATE, body)


def observe(found: Socket, index: int) -> tuple[int | None, dict[int, tuple[str, int | None]]]:
    """The rate that links share, and each one's number, name ("" if it has gone) and ceiling."""
    rate = None
    ceilings: dict[int, int | None] = {}
    for _, message in found.dump(netlink.RTM_GETTCLASS, TC.pack(0, index, 0, 0, 0)):
        _, _, handle, parent, _ = TC.unpack_from(message)
        ceil = _ceil(attributes(message, TC.size))
        if handle == _WHOLE:
            rate = 8 * ceil
        elif parent == _WHOLE:
            ceilings[handle & 0xFFFF] = None if ceil == _UNLIMITED else 8 * ceil
    links = {}
    for _, message in found.dump(netlink.RTM_GETTFILTER, TC.pack(0, index, 0, HANDLE, 0)):
        given = attributes(message, TC.size)
        options = attributes(given[messages.TCA_OPTIONS]) if messages.TCA_OPTIONS in given else {}
        if text(given.get(messages.TCA_KIND)) == "u32" and _TCA_U32_INDEV in options:
            links[number(options.get(_TCA_U32_CLASSID)) & 0xFFFF] = text(options[_TCA_U32_INDEV])
    return rate, {share: (links.get(share, ""), ceil) for share, ceil in ceilings.items()}


def _ceil(given: Attributes) -> int:
    """The highest rate of a class in bytes per second."""
    options = attributes(given[messages.TCA_OPTIONS])
    if _TCA_HTB_CEIL64 in options:
        return int(unpack_from("=Q", options[_TCA_HTB_CEIL64])[0])
    return messages.rate_of(options[_TCA_HTB_PARMS][12:])
