"""Names with characters that str.splitlines() takes for line breaks, which the kernel does not."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.lab import Lab, image, server

BREAKS = "a\vb\x0cc\rd\x1ce\x85f\u2028g"
MOVE = f"""
import os
top = "/sys/fs/cgroup/unified"
if not os.path.exists(top):
    top = "/sys/fs/cgroup"
group = os.path.join(top, {BREAKS!r})
os.mkdir(group)
with open(f"{{group}}/cgroup.procs", "w") as file:
    file.write("1")
"""


@pytest.mark.vm_subset
def test_a_server_may_give_its_groups_any_name(lab: Lab) -> None:
    lab.apply(image(), server("a"))
    lab.run("a", "python3", "-c", MOVE)
    assert os.fsencode(BREAKS) in Path("/proc", str(lab.init("a").pid), "cgroup").read_bytes()
    assert lab.is_settled(image(), server("a"))
    lab.vsprov("restart", "a")


def test_mount_points_may_have_any_name(lab: Lab, tmp_path: Path) -> None:
    point = tmp_path / BREAKS
    point.mkdir()
    script = 'mount -t tmpfs none "$1" && shift && exec "$@"'
    command = ["unshare", "-m", "sh", "-c", script, "sh", str(point), *lab.vsprov.command("doctor")]
    done = subprocess.run(command, capture_output=True, text=True, env=lab.vsprov.environment, timeout=60)
    assert done.stderr == "" and "Servers can run" in done.stdout
