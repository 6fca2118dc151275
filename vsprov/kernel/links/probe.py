"""Whether this kernel has a kind of links or of queueing disciplines, by making one.

Each is made in a network namespace of its own, with which it ends.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from functools import partial

from vsprov.kernel import syscall
from vsprov.kernel.links import netlink
from vsprov.kernel.links.netlink import Request, Socket, attribute, nest
from vsprov.kernel.links.rtnetlink import IFINFO, IFLA_INFO_KIND, IFLA_LINK, IFLA_LINKINFO
from vsprov.kernel.links.traffic import pools, rates
from vsprov.kernel.links.traffic.messages import TC

_CREATE = netlink.NLM_F_CREATE | netlink.NLM_F_EXCL
_ON_ANOTHER = ("macvlan", "ipvlan")  # kinds that need a link below them
_TCA_KIND = 1
_LOOPBACK, _BELOW, _ABOVE = 1, 10, 11  # indexes; the kernel gives the other end of a veth the lowest one
_INGRESS, _INGRESS_HANDLE = 0xFFFFFFF1, 0xFFFF0000


LINKS = ("bridge", "veth", "macvlan", "ipvlan", "ifb")
QUEUES = ("tbf", "ingress", "htb")


def lacking(kinds: Iterable[str]) -> dict[str, str]:
    """{kind: the kernel's answer} of those among `LINKS` and `QUEUES` that this kernel does not have."""
    found = {}
    for kind in kinds:
        try:
            _in_thread(partial(_probe_queue if kind in QUEUES else _probe_link, kind))
        except OSError as error:
            found[kind] = error.strerror or str(error)
    return found


def _in_thread(probe: Callable[[], None]) -> None:
    """Run a probe in a thread with a network namespace of its own; its OSError is raised here."""
    failed: list[OSError] = []

    def work() -> None:
        try:
            syscall.unshare(syscall.CLONE_NEWNET)
            probe()
        except OSError as error:
            failed.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    if failed:
        raise failed[0]


def _probe_link(kind: str) -> None:
    """Create a link of this kind; OSError, EOPNOTSUPP, if the kernel has none."""
    requests = []
    if kind in _ON_ANOTHER:
        requests.append(_link("veth", _BELOW))
    requests.append(_link(kind, _ABOVE, *([attribute(IFLA_LINK, _BELOW)] if kind in _ON_ANOTHER else [])))
    with Socket() as on:
        on.change(requests)


def _link(kind: str, index: int, *more: bytes) -> Request:
    info = nest(IFLA_LINKINFO, attribute(IFLA_INFO_KIND, kind))
    body = IFINFO.pack(0, 0, index, 0, 0) + info + b"".join(more)
    return Request(f"create a link of kind {kind}", netlink.RTM_NEWLINK, _CREATE, body)


def _probe_queue(kind: str) -> None:
    """Put a queueing discipline of this kind on the loopback device; OSError, ENOENT, if the kernel has
    none.
    """
    with Socket() as on:
        if kind == "tbf":
            on.change([rates.limit(_LOOPBACK, "lo", 1_000_000, 1500)])
            return
        if kind == "htb":
            on.change(list(pools.limit(_LOOPBACK, "lo", 1_000_000)))
            return
        body = TC.pack(0, _LOOPBACK, _INGRESS_HANDLE, _INGRESS, 0) + attribute(_TCA_KIND, kind)
        on.change([Request(f"add a queue {kind}", netlink.RTM_NEWQDISC, _CREATE, body)])
