"""Every knob of a running server is changed, added and removed without a restart, never open in between."""

from __future__ import annotations

import json
import os
import re
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.features import requires
from tests.lab import (
    FILES,
    Lab,
    image,
    plain,
    pool,
    server,
    start_time,
    status,
    to_yaml,
    version,
    wait_until,
)


def resources(path: str, value: Any) -> dict[str, Any]:
    group, key = path.split(".")
    return {group: {key: value}}


@contextmanager
def watched(lab: Lab, name: str, knob: str) -> Iterator[set[str]]:
    """All that is seen in the knob's first file meanwhile."""
    controller, old, new = FILES[knob]
    file = lab.group(name, controller) / (old if version(controller) == 1 else new)[0]
    seen: set[str] = set()
    over = threading.Event()

    def look() -> None:
        fd = os.open(file, os.O_RDONLY)
        try:
            while not over.wait(0.0005):
                seen.add(plain(os.pread(fd, 4096, 0).decode().strip()))
        finally:
            os.close(fd)

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield seen
    finally:
        over.set()
        thread.join()


# (knob, first value, its text, second value, its text, the text without it)
KNOBS = [
    ("cpu.weight", 200, "200", 50, "50", "100"),
    ("cpu.limit", "500m", "50000 100000", "1500m", "150000 100000", "max 100000"),
    ("cpu.cpus", "0", "0", "0-1", "0-1", None),
    ("memory.max", "64Mi", "67108864", "32Mi", "33554432", "max"),
    ("pids.max", 50, "50", 20, "20", "max"),
    ("hugepages.2Mi", "4Mi", "4194304", "2Mi", "2097152", "max"),
    ("hugepages.1Gi", "1Gi", "1073741824", "2Gi", "2147483648", "max"),
]
ON_V2_ONLY = [
    ("memory.low", "16Mi", "16777216", "8Mi", "8388608", "0"),
    ("memory.high", "48Mi", "50331648", "40Mi", "41943040", "max"),
    ("memory.oomGroup", True, "1", False, "0", "0"),
    ("io.weight", 200, "default 200", 50, "default 50", "default 100"),
]


@pytest.mark.vm_subset
@pytest.mark.parametrize(("knob", "first", "text", "second", "other", "default"), KNOBS + ON_V2_ONLY)
def test_a_knob_is_changed_removed_and_added_live(
    lab: Lab, knob: str, first: Any, text: str, second: Any, other: str, default: str | None
) -> None:
    controller, old, new = FILES[knob]
    requires(f"{controller}_controller")
    if not (old if version(controller) == 1 else new):
        lab.converge(image(), server("a", resources=resources(knob, first)))
        assert (
            f"{knob} is not enforced"
            in lab.vsprov(
                "plan", "-", input=to_yaml(image(), server("b", resources=resources(knob, first)))
            ).stdout
        )
        again = lab.vsprov(
            "plan", "-", input=to_yaml(image(), server("a", resources=resources(knob, first)))
        ).stdout
        assert "Nothing to do" in again and f"note: Server/a: {knob} is not enforced: " in again
        assert lab.plan(image(), server("a", resources=resources(knob, first)))["notes"].keys() == {
            "Server/a"
        }
        assert f"note: Server/a: {knob} is not enforced: " in lab.vsprov("get", "servers").stdout
        seen = json.loads(lab.vsprov("get", "server", "a", "-o", "json").stdout)["status"]["notEnforced"]
        assert [each["path"] for each in seen] == [knob]
        return
    if knob == "cpu.cpus" and (os.cpu_count() or 1) < 2:
        second, other = "0", "0"
    lab.apply(image(), server("a", resources=resources(knob, first)), server("plain"))
    if not (lab.group("a", controller) / (old if version(controller) == 1 else new)[0]).exists():
        pytest.fail(f"{knob}: no such file, though the kernel has the controller")
    init = lab.init("a")
    assert lab.limit("a", knob) == text
    path = f"Server/a /spec/resources/{knob.replace('.', '/')}"

    changed = (image(), server("a", resources=resources(knob, second)), server("plain"))
    if first != second:
        assert [cost for _, _, cost in lab.differences(*changed).values()] in (["live"], [])
    with watched(lab, "a", knob) as seen:
        lab.converge(*changed)
    assert lab.limit("a", knob) == other
    assert seen <= {text.split()[0] if version(controller) == 1 and knob == "cpu.limit" else text, other,
                    other.split()[0]} | shares(knob, controller, (text, other))  # fmt: skip

    removed = (image(), server("a"), server("plain"))
    # where the kernel shows what is wanted already, it is the record alone that is brought up to date
    assert set(lab.differences(*removed)) in ({path}, {"Server/a /status/mark"}, set())
    lab.converge(*removed)
    if lab.group("a", controller).exists():
        assert lab.limit("a", knob) == (host_cpus() if default is None else default)

    lab.converge(image(), server("a", resources=resources(knob, first)), server("plain"))
    assert lab.limit("a", knob) == text
    assert lab.init("a") == init


def shares(knob: str, controller: str, texts: tuple[str, ...]) -> set[str]:
    """The texts of a CPU weight on cgroup v1."""
    return (
        {str(int(text) * 1024 // 100) for text in texts}
        if knob == "cpu.weight" and version(controller) == 1
        else set()
    )


def host_cpus() -> str:
    """What a group shows that has had CPUs of its own, and has none any more: all of them."""
    return Path("/sys/devices/system/cpu/online").read_text().strip()


def test_a_knob_added_to_a_server_that_has_none_of_its_controller_moves_its_processes_there(lab: Lab) -> None:
    requires("cpuset_controller")
    lab.apply(image(), server("a", "/bin/sh", "-c", "sleep 1000000 & sleep 1000000 & wait"))
    wait_until(lambda: len(lab.processes("a")) == 3)
    before = {pid: start_time(pid) for pid in lab.processes("a")}
    lab.converge(
        image(),
        server(
            "a", "/bin/sh", "-c", "sleep 1000000 & sleep 1000000 & wait", resources={"cpu": {"cpus": "0"}}
        ),
    )
    assert {pid: start_time(pid) for pid in lab.processes("a")} == before
    for pid in before:
        assert status(pid, "Cpus_allowed_list") == "0"


@pytest.mark.vm_subset
def test_burst_limit_and_memory_with_swap_grow_and_shrink_together(lab: Lab) -> None:
    """Each bounds the other, so the order of the writes matters, and differs for growing and shrinking."""
    small = {"cpu": {"limit": "200m", "burst": "15ms"}, "memory": {"max": "32Mi", "swapMax": "8Mi"}}
    large = {"cpu": {"limit": "900m", "burst": "80ms"}, "memory": {"max": "256Mi", "swapMax": "64Mi"}}
    lab.apply(image(), server("a", resources=small))
    init = lab.init("a")
    for limits, shown in (
        (large, ("90000 100000", "80000", str(256 << 20), str(64 << 20))),
        (small, ("20000 100000", "15000", str(32 << 20), str(8 << 20))),
        ({}, ("max 100000", "0", "max", "max")),
        (large, ("90000 100000", "80000", str(256 << 20), str(64 << 20))),
    ):
        with watched(lab, "a", "memory.max") as seen:
            lab.converge(image(), server("a", resources=limits))
        knobs = ("cpu.limit", "cpu.burst", "memory.max", "memory.swapMax")
        assert tuple(lab.limit("a", knob) for knob in knobs) == shown
        assert seen <= {str(32 << 20), str(256 << 20), "max"}
    assert lab.init("a") == init


HOLD = "x = bytearray(b'x' * (40 << 20)); print('held', flush=True); import time; time.sleep(1e6)"


@pytest.mark.vm_subset
def test_memory_below_what_is_in_use_is_refused_and_undone(lab: Lab) -> None:
    hold = ("/usr/bin/env", "python3", "-c", HOLD)
    lab.apply(
        image(), server("a", *hold, resources={"memory": {"max": "96Mi", "swapMax": 0}, "pids": {"max": 20}})
    )
    wait_until(lambda: lab.console("a") == "held\n")
    init = lab.init("a")
    less = {"memory": {"max": "16Mi", "swapMax": 0}, "pids": {"max": 30}}
    said = lab.refused(image(), server("a", *hold, resources=less))
    assert "Server/a" in said and "16777216" in said and "Device or resource busy" in said
    assert re.search(r"hint: [0-9.]+[KM]i is in use", said)
    assert lab.limit("a", "memory.max") == str(96 << 20)
    assert lab.limit("a", "pids.max") == "20"
    assert lab.init("a") == init
    lab.converge(image(), server("a", *hold, resources={"memory": {"max": "80Mi", "swapMax": 0}}))
    assert lab.init("a") == init


def io_limits(lab: Lab, name: str, number: str) -> dict[str, str]:
    """The limits of one device, as cgroup v2 words them; those without are left out."""
    folder = lab.group(name, "io")
    if version("io") == 2:
        for line in (folder / "io.max").read_text().splitlines():
            device, *words = line.split()
            if device == number:
                return {key: text for key, text in (word.split("=") for word in words) if text != "max"}
        return {}
    found = {}
    for key, file in (
        ("rbps", "read_bps"),
        ("wbps", "write_bps"),
        ("riops", "read_iops"),
        ("wiops", "write_iops"),
    ):
        for line in (folder / f"blkio.throttle.{file}_device").read_text().splitlines():
            device, text = line.split()
            if device == number:
                found[key] = text
    return found


@pytest.mark.vm_subset
def test_limits_of_a_block_device_are_changed_live(lab: Lab, loop_disk: str) -> None:
    requires("io_controller")
    node = os.stat(loop_disk).st_rdev
    number = f"{os.major(node)}:{os.minor(node)}"

    def limits(**words: Any) -> dict[str, Any]:
        return {"io": {"devices": [{"device": loop_disk, **words}]}}

    lab.apply(image(), server("a", resources=limits(readBps="10Mi", writeIops=500)))
    init = lab.init("a")
    assert io_limits(lab, "a", number) == {"rbps": "10485760", "wiops": "500"}
    lab.converge(image(), server("a", resources=limits(readBps="20Mi", writeBps="1Mi")))
    assert io_limits(lab, "a", number) == {"rbps": "20971520", "wbps": "1048576"}
    lab.converge(image(), server("a"))
    assert io_limits(lab, "a", number) == {}
    lab.converge(image(), server("a", resources=limits(readIops=100, readBps="max")))
    assert io_limits(lab, "a", number) == {"riops": "100"}
    assert lab.init("a") == init


def test_get_and_diff_name_a_device_by_the_path_it_was_given_or_by_its_own(lab: Lab, loop_disk: str) -> None:
    requires("io_controller")
    node = os.stat(loop_disk).st_rdev
    alias = f"/dev/{lab.vsprov.name}"  # a second path of the same device
    os.symlink(loop_disk, alias)
    try:
        limits = {"devices": [{"device": alias, "readBps": "5Mi"}]}
        documents = (image(), pool("all", io=limits), server("a", quota="all", resources={"io": limits}))
        lab.converge(*documents)
        now = lab.vsprov("get", "-o", "yaml").stdout
        assert now.count(f"device: {alias}\n") == 2
        done = lab.vsprov("plan", "--detailed-exitcode", "-", input=now)
        assert "Nothing to do" in done.stdout
        assert lab.vsprov("diff", "-", input=now).stdout == ""
        one = json.loads(lab.vsprov("get", "server", "a", "-o", "json").stdout)
        assert one["spec"]["resources"]["io"]["devices"] == [{"device": alias, "readBps": 5 << 20}]
    finally:
        os.unlink(alias)
    gone = lab.vsprov("get", "-o", "yaml").stdout
    assert gone.count(f"device: {loop_disk}\n") == 2
    assert f"{os.major(node)}:{os.minor(node)}" not in gone


def test_limits_of_the_disk_of_this_machine_can_be_set(lab: Lab) -> None:
    requires("io_controller")
    disks = [name for name in os.listdir("/sys/block") if name.startswith(("vd", "sd", "nvme", "xvd"))]
    for name in disks[:1]:
        limits = {"io": {"devices": [{"device": f"/dev/{name}", "writeBps": "500Mi"}]}}
        lab.converge(image(), server("a", resources=limits))
        number = Path(f"/sys/block/{name}/dev").read_text().strip()
        assert io_limits(lab, "a", number) == {"wbps": str(500 << 20)}


def test_limits_of_processes_are_changed_on_all_of_them(lab: Lab) -> None:
    script = ("/bin/sh", "-c", "sleep 1000000 & sleep 1000000 & wait")

    def limited(soft: int, hard: int) -> Any:
        return server("a", *script, resources={"rlimits": {"nofile": {"soft": soft, "hard": hard}}})

    lab.apply(image(), limited(300, 400))
    wait_until(lambda: len(lab.processes("a")) == 3)
    before = {pid: start_time(pid) for pid in lab.processes("a")}
    lab.converge(image(), limited(100, 200))
    assert {pid: start_time(pid) for pid in lab.processes("a")} == before
    for pid in before:
        line = next(
            line for line in Path(f"/proc/{pid}/limits").read_text().splitlines() if "open files" in line
        )
        assert line.split()[3:5] == ["100", "200"]


def test_the_stop_signal_and_timeout_labels_and_annotations_cost_nothing(lab: Lab) -> None:
    lab.apply(image(), server("a", labels={"a": "1"}))
    init = lab.init("a")
    lab.converge(
        image(),
        server(
            "a", labels={"b": "2"}, annotations={"note": "x"}, init={"stopSignal": "INT", "stopTimeout": "3s"}
        ),
    )
    assert lab.init("a") == init
    shown = lab.vsprov("get", "server", "a", "-o", "json").stdout
    assert '"b": "2"' in shown and '"note": "x"' in shown


def test_the_host_name_is_changed_live(lab: Lab) -> None:
    lab.apply(image(), server("a"))
    init = lab.init("a")
    lab.converge(image(), server("a", hostname="other.example"))
    done = subprocess.run(
        ["nsenter", "-t", str(init.pid), "-u", "hostname"], capture_output=True, text=True, check=True
    )
    assert done.stdout == "other.example\n"
    assert lab.init("a") == init


@pytest.mark.parametrize(
    "change",
    [
        {"init": {"env": {"A": "b"}}},
        {"init": {"workingDir": "/tmp"}},
        {"init": {"user": "1:1"}},
        pytest.param(
            {"init": {"reaper": True}}, marks=[pytest.mark.requires("catatonit"), pytest.mark.bare_debian]
        ),
        {"mounts": [{"type": "tmpfs", "target": "/srv/x"}]},
        {"security": {"noNewPrivileges": False}},
        {"security": {"readOnlyRoot": True}},
        {"security": {"capabilities": {"drop": ["KILL"]}}},
        {"image": "second"},
    ],
    ids=lambda change: next(iter(change)),
)
def test_what_cannot_be_changed_live_restarts_this_server_and_no_other(
    lab: Lab, change: dict[str, Any]
) -> None:
    images = (image(), image("second", host={"paths": ["/opt"]}))
    lab.apply(*images, server("a"), server("other"))
    init, other = lab.init("a"), lab.init("other")
    documents = (*images, server("a", **change), server("other"))
    assert {cost for _, _, cost in lab.differences(*documents).values()} == {"restart"}
    lab.converge(*documents)
    assert lab.init("a") != init
    assert lab.init("other") == other


def test_an_ephemeral_root_means_a_new_directory(lab: Lab) -> None:
    lab.apply(image(), server("a", "/bin/sh", "-c", "echo x >> /etc/count; exec sleep infinity"))
    wait_until(lambda: (lab.root("a") / "etc/count").exists())
    changed = server("a", "/bin/sh", "-c", "echo x >> /etc/count; exec sleep infinity", ephemeral=True)
    plan = lab.plan(image(), changed)
    assert plan["resource_changes"][0]["change"]["actions"] == ["delete", "create"]
    assert plan["resource_changes"][0]["change"]["replace_paths"] == ["/spec/ephemeral"]
    assert plan["summary"]["replace"] == 1
    lab.converge(image(), changed)
    wait_until(lambda: (lab.root("a") / "etc/count").exists())
    assert (lab.root("a") / "etc/count").read_text() == "x\n"
