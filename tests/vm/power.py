"""What goes on inside the emulated machine around a reboot and two power cuts; test_power.py boots it.

`python -m tests.vm.power PART…` runs the parts, each a function below, one after the other. A part that cuts
the power does not come back. What one boot has to tell the next lies, flushed, beside the instance's files on
the state disk.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests import leaks
from tests.e2e.networks import network
from tests.instance import Instance
from tests.lab import Document, Lab, image, pool, server, to_yaml, wait_until
from vsprov.store.disk import durable

PLACE = Path("/var/tmp")
LAB = Lab(Instance("vt-power", PLACE / "vt-power"))
FACTS = PLACE / "facts.json"
MANIFEST = PLACE / "manifest.yaml"

# Each start adds a line that is on the disk by the time the server sleeps.
COMMAND = ("/bin/sh", "-c", "echo started >> /root/starts; sync /root/starts; exec sleep infinity")
LIMITS = {"memory": {"max": "64Mi"}, "pids": {"max": 40}}
OLD: tuple[Document, ...] = (
    image(),
    pool("team", memory={"max": "256Mi"}),
    network("lan", "10.20.0.0/24"),
    server("limited", *COMMAND, quota="team", resources=LIMITS, boot={"priority": -1}),
    server("plain", *COMMAND, interfaces=[{"name": "eth0", "network": "lan"}], boot={"priority": 1}),
    server("fleeting", *COMMAND, ephemeral=True),
)
OLD_NAMES = ("limited", "plain", "fleeting")
BY_PRIORITY = ["plain", "fleeting", "limited"]
NEW_NAMES = tuple(f"new{number}" for number in range(20))
ALL = (*OLD, *(server(name, *COMMAND) for name in NEW_NAMES))
AT_ONCE = 4  # so that at any moment some servers are done, some half-made, and some not begun
ENOUGH = 8  # servers made, or removed, when the power goes


# What the rules of networks need. Loaded by nft itself, in an emulated machine, they take longer than it may.
MODULES = (
    *("bridge", "veth", "nf_tables", "nf_conntrack", "nf_conntrack_bridge", "nf_nat"),
    *("nft_chain_nat", "nft_ct", "nft_fib_inet", "nft_limit", "nft_log", "nft_masq", "nft_nat"),
    *("nft_reject_bridge", "nft_reject_inet"),
)


def main(parts: list[str]) -> None:
    for module in MODULES:
        subprocess.run(["modprobe", "-q", module])  # some kernels have one of them built in
    for part in parts:
        PARTS[part]()


def make() -> None:
    LAB.vsprov.temporary.mkdir(parents=True)
    LAB.converge(image())
    LAB.converge(*OLD)
    wait_until(lambda: all(map(sleeps, OLD_NAMES)))
    same({name: starts(name) for name in OLD_NAMES}, {"limited": 1, "plain": 1, "fleeting": 1})
    remember(disks=disks(OLD_NAMES), addresses=addresses())


def shut_down() -> None:
    same(in_order(LAB.vsprov("shutdown").stderr, "stopped"), BY_PRIORITY[::-1])
    same(leaks.processes(LAB.vsprov.name), {})
    os.sync()


def boot_after_a_reboot() -> None:
    same(leaks.processes(LAB.vsprov.name), {})
    found = json.loads(LAB.vsprov("get", "servers", "-o", "json").stdout)["items"]
    same({each["metadata"]["name"]: each["status"]["state"] for each in found},
         dict.fromkeys(OLD_NAMES, "Stopped"))  # fmt: skip
    starting = {"/spec/state: Stopped → Running (none)", "/status/cgroup: missing → present (none)"}
    found_servers = {f"Server/{name}": starting for name in OLD_NAMES}
    same({each: what for each, what in planned(*OLD).items() if each.startswith("Server/")}, found_servers)
    same(in_order(LAB.vsprov("boot").stderr, "started"), BY_PRIORITY)
    assert LAB.is_settled(*OLD)
    wait_until(lambda: all(map(sleeps, OLD_NAMES)))
    same({name: starts(name) for name in OLD_NAMES}, {"limited": 2, "plain": 2, "fleeting": 1})
    same(disks(OLD_NAMES), remembered("disks"))
    same(addresses(), remembered("addresses"))
    same(LAB.limit("team/limited", "memory.max"), str(64 << 20))
    same(LAB.limit("team/limited", "pids.max"), "40")
    same(LAB.limit("team", "memory.max"), str(256 << 20))
    same(leftovers(), [])


def cut_the_power_while_servers_are_made() -> None:
    begin("apply", *ALL)
    wait_until(lambda: len(made(NEW_NAMES)) >= ENOUGH)
    asleep = [name for name in NEW_NAMES if sleeps(name)]
    there = made(NEW_NAMES)
    assert ENOUGH <= len(there) < len(NEW_NAMES), there
    remember(disks=disks((*OLD_NAMES, *there)), asleep=asleep)
    cut_the_power()


def finish_making() -> None:
    same(leaks.processes(LAB.vsprov.name), {})
    there, asleep = remembered("disks"), remembered("asleep")
    missing = [name for name in there if name not in made((*OLD_NAMES, *NEW_NAMES))]
    same(missing, [])
    torn = [name for name in there if not (LAB.directory(name) / "server.json").read_bytes()]
    tell(f"the power went with {len(there)} servers made, {len(asleep)} new ones started, torn: {torn}")
    LAB.vsprov("boot", check=False)  # records that were not flushed may be torn
    wait_until(lambda: all(map(sleeps, OLD_NAMES)))
    LAB.converge(*ALL)
    wait_until(lambda: all(map(sleeps, (*OLD_NAMES, *NEW_NAMES))))
    same({name: starts(name) for name in OLD_NAMES}, {"limited": 3, "plain": 3, "fleeting": 1})
    same({name: starts(name) for name in asleep}, dict.fromkeys(asleep, 2))
    others = [name for name in NEW_NAMES if name not in there]
    same({name: starts(name) for name in others}, dict.fromkeys(others, 1))
    same(disks(there), there)
    ranges = {base for base, _ in disks((*OLD_NAMES, *NEW_NAMES)).values()}
    same(len(ranges), len(OLD_NAMES) + len(NEW_NAMES))
    same(leftovers(), [])


def cut_the_power_while_servers_are_removed() -> None:
    begin("destroy", *ALL)
    wait_until(lambda: len(made(NEW_NAMES)) <= len(NEW_NAMES) - ENOUGH)
    left = made(NEW_NAMES)
    assert left, "all are gone already"
    remember(left=left)
    cut_the_power()


def finish_removing() -> None:
    same(leaks.processes(LAB.vsprov.name), {})
    left, there = remembered("left"), made(NEW_NAMES)
    same([name for name in there if name not in left], [])
    tell(f"the power went with {len(left)} servers left to remove; now there are {len(there)}")
    assert LAB.vsprov.root.is_dir()
    LAB.vsprov("destroy", "--all", "-y")
    same(LAB.vsprov.left(), [])
    assert not LAB.vsprov.root.exists()


def addresses() -> dict[str, list[str]]:
    """{server: its addresses}."""
    items = json.loads(LAB.vsprov("get", "servers", "-o", "json").stdout)["items"]
    return {item["metadata"]["name"]: item["status"]["addresses"] for item in items}


def in_order(said: str, word: str) -> list[str]:
    """The names of servers in the order in which a command says that they were started or stopped."""
    lines = [line for line in said.splitlines() if line.startswith("Server/") and f": {word} (" in line]
    return [line.partition(":")[0].removeprefix("Server/") for line in lines]


def planned(*documents: Document) -> dict[str, set[str]]:
    """{address: what of it differs and what that costs} of the plan for the documents."""
    return {
        change["address"]: {
            f"{path['path']}: {path['before']} → {path['after']} ({path['disruption']})"
            for path in change["paths"]
        }
        for change in LAB.plan(*documents)["resource_changes"]
    }


def begin(verb: str, *documents: Document) -> None:
    """Start a command that is not waited for."""
    MANIFEST.write_text(to_yaml(*documents))
    command = LAB.vsprov.command(verb, "-y", "--parallelism", str(AT_ONCE), MANIFEST)
    subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, env=LAB.vsprov.environment)


def tell(what: str) -> None:
    print(what, flush=True)  # it would not be seen after a power cut


def cut_the_power() -> None:
    """A reset by the kernel's own hand, without a sync; the emulator ends then. sysrq.rst"""
    Path("/proc/sysrq-trigger").write_text("b")


def remember(**facts: Any) -> None:
    """Tell the next boot. The fsync commits all that the file system's journal holds so far, so that names
    and marks made before it outlive a power cut, and content that was not flushed does not.
    """
    durable.write_file(str(FACTS), json.dumps(facts).encode())


def remembered(fact: str) -> Any:
    return json.loads(FACTS.read_bytes())[fact]


def made(names: tuple[str, ...]) -> list[str]:
    """Those of the servers that have a directory."""
    return [name for name in names if LAB.directory(name).is_dir()]


def disks(names: Any) -> dict[str, list[int]]:
    """{server: its first id, and the inode of its directory, another one if it was made anew}."""
    folders = {name: LAB.directory(name) for name in names}
    return {name: [(path / "work").stat().st_uid, path.stat().st_ino] for name, path in folders.items()}


def starts(name: str) -> int:
    """How often the server was started, going by what it has written."""
    return (LAB.directory(name) / "upper/root/starts").read_text().count("started\n")


def sleeps(name: str) -> bool:
    """Whether the server runs and has flushed what it writes."""
    group = f"team/{name}" if name == "limited" else name
    return any(program(pid) == "sleep" for pid in LAB.processes(group))


def program(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return ""


def leftovers() -> list[str]:
    """Whatever below the state root bears a name that only something half-made or half-removed has."""
    found = LAB.vsprov.root.rglob("*")
    return sorted(str(path) for path in found if path.name.startswith(durable.LEFTOVERS))


def same(found: object, wanted: object) -> None:
    assert found == wanted, f"{found!r} instead of {wanted!r}"


PARTS = {
    part.__name__: part
    for part in (
        make,
        shut_down,
        boot_after_a_reboot,
        cut_the_power_while_servers_are_made,
        finish_making,
        cut_the_power_while_servers_are_removed,
        finish_removing,
    )
}

if __name__ == "__main__":
    main(sys.argv[1:])
