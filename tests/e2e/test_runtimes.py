"""What language runtimes find of a server's limits, in its init and in commands that join it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.features import requires
from tests.instance import own_instance
from tests.lab import Document, Lab, image, pool, server, version, wait_until

MEMORY = 512 << 20
# The limits as Go's runtime and the JVM find them: the mount of the controller in mountinfo, joined with the
# path in /proc/self/cgroup relative to the root of the mount. On v2 the group itself, not those above it.
FIND = r"""
import json, sys
paths = {}
for line in open("/proc/self/cgroup"):
    _, names, path = line.rstrip("\n").split(":", 2)
    for name in names.split(","):
        paths[name] = path
def where(controller):
    v1 = controller in paths
    for line in open("/proc/self/mountinfo"):
        left, right = line.split(" - ")
        root, point = left.split()[3:5]
        kind, _, options = right.split()
        if v1 and kind == "cgroup" and controller in options.split(","):
            assert root == "/", line
            return 1, point + paths[controller]
        if not v1 and kind == "cgroup2":
            return 2, point + paths[""]
def read(controller, one, two):
    version, group = where(controller)
    try:
        return " ".join(open(f"{group}/{name}").read().strip() for name in (one if version == 1 else two))
    except FileNotFoundError as error:
        return str(error)
found = {
    "memory": read("memory", ["memory.limit_in_bytes"], ["memory.max"]),
    "cpu": read("cpu", ["cpu.cfs_quota_us", "cpu.cfs_period_us"], ["cpu.max"]),
    "pids": read("pids", ["pids.max"], ["pids.max"]),
}
"""
RESOURCES = {"memory": {"max": "512Mi"}, "cpu": {"limit": "500m"}, "pids": {"max": 300}}
LIMITS = {"memory": str(MEMORY), "cpu": "50000 100000", "pids": "300"}


def limited(**resources: Any) -> Document:
    script = f"{FIND}\njson.dump(found, open('/found', 'w'))\nimport time; time.sleep(100000)"
    return server("web", "python3", "-c", script, resources=RESOURCES | resources)


@pytest.fixture(scope="module")
def web() -> Iterator[Lab]:
    with own_instance() as instance:
        made = Lab(instance)
        made.apply(image(), limited())
        yield made


@pytest.mark.vm_subset
def test_init_finds_the_limits_of_its_server(web: Lab) -> None:
    found = Path(f"/proc/{web.init('web').pid}/root/found")
    wait_until(lambda: found.exists() and found.read_text() != "")
    assert json.loads(found.read_text()) == LIMITS


def found_by_exec(lab: Lab) -> Any:
    return json.loads(lab.run("web", "python3", "-c", f"{FIND}\nprint(json.dumps(found))").stdout)


def test_a_command_finds_the_limits_of_the_server_and_their_changes(web: Lab) -> None:
    before = web.init("web")
    assert found_by_exec(web) == LIMITS
    web.apply(image(), limited(memory={"max": "256Mi"}, cpu={"limit": "1500m"}))
    assert found_by_exec(web) == {"memory": str(256 << 20), "cpu": "150000 100000", "pids": "300"}
    web.apply(image(), limited())
    assert found_by_exec(web) == LIMITS and web.init("web") == before


def test_a_jvm_takes_a_quarter_of_the_memory_limit_as_its_heap(web: Lab) -> None:
    requires("java")
    said = web.run("web", "java", "-XX:+PrintFlagsFinal", "-version").stdout
    assert re.findall(r" MaxHeapSize += (\d+)", said) == [str(MEMORY // 4)]


def test_node_knows_the_memory_limit(web: Lab) -> None:
    requires("node")
    script = "console.log(require('v8').getHeapStatistics().heap_size_limit < 520 * 1048576)"
    assert web.run("web", "node", "-e", script).stdout == "true\n"


def test_a_server_can_write_no_limit_and_sees_no_group_of_the_host(web: Lab) -> None:
    script = """
for file in $(find /sys/fs/cgroup -name 'memory.*' -o -name 'cpu*' -type f -o -name 'pids.*'); do
  (echo 1 > $file) 2>/dev/null && echo "written: $file"
done
find /sys/fs/cgroup -mindepth 2 -type d
find /sys/fs/cgroup -name release_agent
exit 0
"""
    assert web.shell("web", script) == ""


def test_limits_of_cgroup2_are_those_of_the_group_that_a_server_sees_too(web: Lab) -> None:
    """Whatever controller it is: here hugetlb, which hosts with cgroup v1 may have on cgroup2."""
    requires("hugetlb")
    if version("hugetlb") == 1:
        return  # nothing is the same twice
    for size in (64, 32):
        web.apply(image(), limited(), server("huge", resources={"hugepages": {"2Mi": f"{size}Mi"}}))
        home = web.group("huge", "")
        files = [home / "hugetlb.2MB.max", home / "payload/hugetlb.2MB.max"]
        assert [int(file.read_text()) for file in files] == [size << 20] * 2
        web.vsprov("restart", "huge")
        assert [int(file.read_text()) for file in files] == [size << 20] * 2


def test_a_server_called_payload_does_not_get_the_limits_of_its_pool(web: Lab) -> None:
    requires("hugetlb")
    shared = pool("shared", hugepages={"2Mi": "64Mi"})
    web.apply(image(), limited(), shared, server("payload", quota="shared"))
    shared["spec"]["hugepages"]["2Mi"] = "32Mi"
    web.apply(image(), limited(), shared, server("payload", quota="shared"))
    home = web.group("shared/payload", "hugetlb")
    file = "hugetlb.2MB.limit_in_bytes" if version("hugetlb") == 1 else "hugetlb.2MB.max"
    assert int((home.parent / file).read_text()) == 32 << 20 != int((home / file).read_text())
