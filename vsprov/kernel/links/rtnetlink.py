"""Numbers and headers of rtnetlink(7), as in linux/if_link.h, if_addr.h, rtnetlink.h and neighbour.h."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from struct import Struct

IFINFO, IFADDR, RTM, NDM = Struct("=BxHiII"), Struct("=BBBBi"), Struct("=8BI"), Struct("=BxxxiHBB")
IFF_UP, IFF_LOOPBACK = 1, 8
IFLA_ADDRESS, IFLA_IFNAME, IFLA_MTU, IFLA_LINK, IFLA_MASTER, IFLA_LINKINFO = 1, 3, 4, 5, 10, 18
IFLA_BROADCAST, IFLA_AF_SPEC = 2, 26
IFLA_INET6_ADDR_GEN_MODE, IN6_ADDR_GEN_MODE_NONE = 8, 1
IFLA_IFALIAS, IFLA_EXT_MASK, IFLA_LINK_NETNSID, IFLA_PROP_LIST, IFLA_ALT_IFNAME = 20, 29, 37, 52, 53
IFLA_INFO_KIND, IFLA_INFO_DATA, IFLA_INFO_SLAVE_KIND, IFLA_INFO_SLAVE_DATA = 1, 2, 4, 5
IFLA_BRPORT_MODE, IFLA_BRPORT_ISOLATED = 4, 33
IFA_ADDRESS, IFA_LOCAL, IFA_FLAGS, IFA_PROTO = 1, 2, 8, 11
RTA_DST, RTA_OIF, RTA_GATEWAY, RTA_MULTIPATH = 1, 4, 5, 9
NDA_DST = 1
NTF_PROXY = 8
RT_TABLE_MAIN, RTPROT_KERNEL, RTPROT_RA, RTN_UNICAST = 254, 2, 9, 1
MODES: Mapping[str, Mapping[int, str]] = {
    "macvlan": {1: "private", 2: "vepa", 4: "bridge", 8: "passthru", 16: "source"},
    "ipvlan": {0: "l2", 1: "l3", 2: "l3s"},
}
FAMILIES = {4: socket.AF_INET, 6: socket.AF_INET6}
IFAPROT_KERNEL_RA, IFAPROT_KERNEL_LL = 2, 3
