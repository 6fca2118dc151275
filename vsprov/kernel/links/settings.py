"""Settings of bridges and of their ports that vsprov leaves as they are in a new link, and relies on.

They are observed by what differs, as "name=value". Settings on which neither isolation, anti-spoofing nor
connectivity depends are left to the administrator; docs/howto/networks.md names them.
"""

from __future__ import annotations

import sys
from collections.abc import Collection, Iterable
from struct import pack

from msgspec import Struct

from vsprov.kernel.links.netlink import Attributes, attribute

NOTHING: frozenset[str] = frozenset()


class Setting(Struct, frozen=True):
    """An attribute of a link, with its name in ip-link(8): `expected` is the value of its bits in `mask`."""

    number: int
    name: str
    expected: int
    size: int = 1
    mask: int = 0xFFFFFFFF

    def request(self) -> bytes:
        """The attribute that sets it to what is expected."""
        if self.size == 8:  # struct br_boolopt_multi: values and a mask
            return attribute(self.number, pack("=II", self.expected, self.mask))
        return attribute(self.number, self.expected.to_bytes(self.size, sys.byteorder))


# linux/if_link.h
BRIDGE = (
    # Without a memory of MAC addresses, servers see the packets of all others.
    Setting(4, "ageing_time", 30000, 4),
    # Ports would forward nothing for 30 seconds.
    Setting(5, "stp_state", 0, 4),
    # Ports would depend on VLANs that vsprov does not set.
    Setting(7, "vlan_filtering", 0),
    # Else a server could attract the packets of another: a bridge learns the sender of an LLDP frame without
    # showing that frame to nftables (br_handle_frame in net/bridge/br_input.c).
    Setting(46, "no_linklocal_learn", 1, 8, mask=1),
)
PORT = (
    # A port that is not learned has its packets sent to all others.
    Setting(8, "learning", 1),
    # What new neighbors are found with.
    Setting(9, "flood", 1),
    Setting(27, "mcast_flood", 1),
    Setting(30, "bcast_flood", 1),
    Setting(32, "neigh_suppress", 0),
    Setting(39, "locked", 0),
)


def differing(found: Attributes, rows: Collection[Setting]) -> frozenset[str]:
    """The settings that are not as expected; those that this kernel does not have are left out."""
    out = []
    for row in rows:
        if (data := found.get(row.number)) is not None:
            value = int.from_bytes(data[: min(row.size, 4)], sys.byteorder) & row.mask
            if value != row.expected:
                out.append(f"{row.name}={value}")
    return frozenset(out) if out else NOTHING


def restored(rows: Iterable[Setting], before: Collection[str]) -> bytes:
    """The attributes that set these settings to what is expected."""
    names = {text.partition("=")[0] for text in before}
    return b"".join(row.request() for row in rows if row.name in names)
