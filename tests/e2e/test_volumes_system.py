"""Volumes in servers that boot systemd: mounted and unmounted while it runs, and after a reboot."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.e2e.reboot import lose_power
from tests.e2e.test_volumes import mounts
from tests.lab import Document, Lab, mounted, server, volume
from tests.systems import booted, debian

pytestmark = [pytest.mark.slow, pytest.mark.requires("loop", "ext4", "mkfs_ext4")]
VOLUMES = (volume("plain"), volume("limited", size="64Mi", backend="image"))
UNIT = """
systemd-run --quiet --unit=writer -p PrivateTmp=yes -p ProtectSystem=full -p ProtectHome=yes \\
    sh -c 'until [ -e /srv/plain/go ]; do sleep 0.1; done; echo of a unit > /srv/plain/unit; sleep infinity'
"""


def system(*volumes: Document) -> Document:
    document = server("system", image="debian", mounts=list(volumes))
    document["spec"]["init"] = {"style": "systemd"}
    return document


def test_volumes_are_mounted_in_and_unmounted_from_a_booted_system_and_units_see_them(
    lab: Lab, debian_archive: Path
) -> None:
    wanted = (debian(debian_archive), *VOLUMES)
    lab.apply(*wanted, system())
    booted(lab, "system")
    init = lab.init("system")
    lab.shell("system", UNIT)
    both = system(mounted("plain", "/srv/plain"), mounted("limited", "/srv/limited"))
    assert {cost for _, _, cost in lab.differences(*wanted, both).values()} == {"live"}
    lab.converge(*wanted, both)
    lab.shell("system", "touch /srv/plain/go; echo kept > /srv/limited/file")
    lab.wait_until(lambda: lab.run("system", "test", "-s", "/srv/plain/unit", check=False).returncode == 0)
    assert lab.shell("system", "df -m /srv/limited | tail -1").split()[1] in ("54", "55", "56")
    assert lab.shell("system", "systemctl is-system-running") == "running\n"
    # The unit has a copy of the mount, in a mount namespace of its own.
    lab.converge(*wanted, system())
    assert not {"/srv/plain", "/srv/limited"} & {*mounts(lab, "system")}
    assert lab.init("system") == init
    assert (
        lab.shell("system", "systemctl is-active writer; systemctl is-system-running") == "active\nrunning\n"
    )


def test_volumes_of_a_system_are_there_after_it_and_the_host_have_booted_again(
    lab: Lab, debian_archive: Path
) -> None:
    read_only: Any = {"readOnly": True}
    wanted = (
        debian(debian_archive),
        *VOLUMES,
        system(mounted("plain", "/srv/plain", **read_only), mounted("limited", "/var/lib/db")),
    )
    lab.converge(*wanted)
    booted(lab, "system")
    lab.shell("system", "echo kept > /var/lib/db/file; sync")
    lose_power(lab)
    lab.vsprov("boot")
    booted(lab, "system")
    assert lab.is_settled(*wanted)
    assert lab.shell("system", "cat /var/lib/db/file") == "kept\n"
    for words in ("touch /srv/plain/x", "mount -o remount,bind,rw /srv/plain"):
        assert lab.run("system", "sh", "-c", words, check=False).returncode != 0
    init = lab.init("system")
    # What becomes writable or read-only, and a volume that only the root of a system could unlock.
    writable = (*wanted[:-1], system(mounted("plain", "/srv/plain"), mounted("limited", "/var/lib/db")))
    lab.converge(*writable)
    assert lab.init("system") == init and lab.shell("system", "touch /srv/plain/x") == ""
    (change,) = (one for one in lab.plan(*wanted)["resource_changes"] if one["kind"] == "Server")
    assert [one["disruption"] for one in change["paths"]] == ["restart"]
