"""A hundred servers on one bridge."""

from __future__ import annotations

import json
import subprocess

from tests import world
from tests.e2e.networks import HOST, idle, network, network_lab

COUNT = 100
# Asks every address of its arguments, and prints those that answered.
PING_ALL = """
import select, socket, struct, sys
one = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
request = struct.pack("!BBHHH", 8, 0, ~(0x0800 + 7 + 7) & 0xFFFF, 7, 7)
waiting = set(sys.argv[1:])
for address in waiting:
    one.sendto(request, (address, 0))
while waiting and select.select([one], [], [], 10)[0]:
    packet, (address, _) = one.recvfrom(2048)
    if packet[20] == 0:
        waiting.discard(address)
print(*sorted(waiting))
"""


def test_a_hundred_servers_on_one_bridge_have_addresses_of_their_own_and_all_answer() -> None:
    documents = (
        HOST,
        network("lan", "10.20.0.0/24", "fd20::/64"),
        *(idle(f"s{n}", "lan") for n in range(COUNT)),
    )
    with network_lab() as net:
        net.lab.converge(*documents)
        items = json.loads(net.lab.vsprov("get", "servers", "-o", "json").stdout)["items"]
        found = {item["metadata"]["name"]: item["status"]["addresses"] for item in items}
        addresses = [text.partition("/")[0] for texts in found.values() for text in texts]
        assert len(set(addresses)) == len(addresses) == 2 * COUNT
        macs = [item["status"]["interfaces"][0]["mac"] for item in items]
        assert len(set(macs)) == COUNT
        v4 = [address for address in addresses if "." in address]
        inside = ["nsenter", f"--net=/proc/{net.lab.init('s0').pid}/ns/net", "python3", "-c", PING_ALL, *v4]
        silent = subprocess.run(inside, capture_output=True, text=True, check=True).stdout.split()
        assert silent == []
        assert len(world.links(net.world.host)) == COUNT + 3  # lo, the uplink and the bridge
        net.lab.vsprov("destroy", "-y", "--all")
        assert world.links(net.world.host).keys() == {"lo", world.UPLINK}
