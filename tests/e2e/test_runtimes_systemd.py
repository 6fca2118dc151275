"""What language runtimes find of a server's limits in a server that has booted systemd."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.features import requires
from tests.instance import own_instance
from tests.lab import Document, Lab, server, version
from tests.systems import booted, debian

pytestmark = pytest.mark.slow
MEMORY = 512 << 20
RESOURCES = {"memory": {"max": "512Mi"}, "cpu": {"limit": "500m"}, "pids": {"max": 300}}


def shown_at(path: Path, target: str = "") -> Document:
    return {"type": "bind", "source": str(path), "target": target or str(path), "readOnly": True}


@pytest.fixture(scope="module")
def system(debian_archive: Path) -> Iterator[Lab]:
    """A lab with a server `system` that has booted systemd, and the java and node of the host in it."""
    requires("java", "node")
    java = Path(shutil.which("java") or "").resolve().parent.parent
    settings = (java / "lib/jvm.cfg").resolve().parent  # Debian's is in /etc
    mounts = [shown_at(Path("/usr"), "/host"), shown_at(java)]
    mounts += [] if settings.is_relative_to(java) else [shown_at(settings)]
    document = server("system", image="debian", resources=RESOURCES, mounts=mounts)
    document["spec"]["init"] = {"style": "systemd"}
    with own_instance() as instance:
        made = Lab(instance)
        made.converge(debian(debian_archive), document)
        booted(made, "system")
        yield made


def unit(lab: Lab, *command: str) -> str:
    """What a command says that is run as a unit of systemd."""
    return lab.run("system", "systemd-run", "--quiet", "--wait", "--pipe", *command).stdout


def test_in_a_unit_of_systemd_a_jvm_takes_a_quarter_of_the_limit_and_as_many_cpus(system: Lab) -> None:
    java = str(Path(shutil.which("java") or "").resolve())
    said = unit(system, java, "-XX:+PrintFlagsFinal", "-Xlog:os+container=trace", "-version")
    assert re.findall(r" MaxHeapSize += (\d+)", said) == [str(MEMORY // 4)]
    assert "CPU Quota is: 50000" in said


def test_in_a_unit_of_systemd_node_knows_the_memory_limit(system: Lab) -> None:
    node = "/host" + str(Path(shutil.which("node") or "").resolve()).removeprefix("/usr")
    libraries = "LD_LIBRARY_PATH=/host/lib/x86_64-linux-gnu"
    script = (
        "console.log(process.constrainedMemory(), v8.getHeapStatistics().heap_size_limit < 520 * 1048576)"
    )
    assert unit(system, "env", libraries, node, "-e", script) == f"{MEMORY} true\n"


def test_a_jvm_that_looks_for_the_type_of_sys_fs_cgroup_only_finds_where_the_limits_are(system: Lab) -> None:
    """As OpenJDK does since JDK-8349988, which that of the host may not have yet."""
    where = "cgroup2fs" if version("memory") == 2 else "tmpfs"
    assert unit(system, "stat", "-fc", "%T", "/sys/fs/cgroup") == f"{where}\n"


def test_the_root_of_a_system_writes_no_limit_although_it_may_mount(system: Lab) -> None:
    if version("memory") == 2:
        return  # on cgroup2 the group itself is the server's, its parent has the limits
    script = """
    for controller in memory cpu pids cpuset cpuacct; do
      point=/sys/fs/cgroup/$controller
      umount $point 2>/dev/null || :
      mount -o remount,bind,rw $point || mount -t cgroup -o $controller none $point
      for file in $point/*; do (echo 1 > $file) 2>/dev/null && echo "written: $file"; done
      mkdir $point/made 2>/dev/null && echo "made: $point"
    done
    :
    """
    assert unit(system, "unshare", "--mount", "sh", "-c", script) == ""
    limit = Path("/sys/fs/cgroup/memory") / system.vsprov.name / "system/memory.limit_in_bytes"
    assert limit.read_text() == f"{MEMORY}\n"
