"""What a reboot takes of an instance, without one: whatever the kernel has of it, and what lies in /run."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from tests import leaks, world
from tests.lab import Lab, hierarchy, wait_until


def lose_power(lab: Lab, network: int | None = None) -> None:
    """Kill all processes of an instance, and remove its groups, links, tables and run directory."""
    name = lab.vsprov.name
    top = hierarchy("") / name
    (top / "cgroup.kill").write_text("1")
    wait_until(lambda: not leaks.processes(name) and all(map(_is_removed, leaks.groups(name))))
    shutil.rmtree(lab.vsprov.run)
    for family, table in leaks.tables(name, network):
        _run(network, "nft", "delete", "table", family, table)
    wait_until(lambda: not any(_is_of_a_server(name, link, network) for link in leaks.links(name, network)))
    for link in leaks.links(name, network):
        _run(network, "ip", "link", "delete", link)


def _is_removed(group: Path) -> bool:
    try:
        group.rmdir()
    except OSError:  # EBUSY: the last process has only just left, or something is below it
        return False
    return True


def _is_of_a_server(name: str, link: str, network: int | None) -> bool:
    """Whether a link goes away by itself, with the network namespace of its server."""
    if network is None:
        return False
    alias = str(world.links(network).get(link, {}).get("ifalias", f"vsprov:{name}:network/"))
    return not alias.startswith(f"vsprov:{name}:network/")


def _run(network: int | None, *command: str) -> None:
    words = [*command] if network is None else world.within(network, *command)
    subprocess.run(words, check=True, capture_output=True)
