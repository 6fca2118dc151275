"""What was changed behind vsprov's back: the plan shows it by its exact path, the apply repairs it, and
nobody else is touched.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.lab import (
    FILES,
    Document,
    Lab,
    hierarchies,
    hierarchy,
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

LIMITS = {
    "cpu": {"limit": "500m", "weight": 200},
    "memory": {"max": "64Mi"},
    "pids": {"max": 40},
    "rlimits": {"nofile": {"soft": 100, "hard": 200}},
}
DOCUMENTS: tuple[Document, ...] = (
    image(),
    pool("team", cpu={"limit": "1000m"}, memory={"max": "128Mi"}),
    server("a", resources=LIMITS, hostname="drifter"),
    server("b", quota="team", resources={"pids": {"max": 30}}),
    server("c"),
)
NAMES = ("a", "team/b", "c")


@pytest.fixture
def made(lab: Lab) -> Lab:
    lab.apply(*DOCUMENTS)
    return lab


def write(file: Path, text: str) -> None:
    """One write(2), as vsprov does."""
    fd = os.open(file, os.O_WRONLY)
    try:
        os.write(fd, text.encode())
    finally:
        os.close(fd)


def repair(lab: Lab, expected: dict[str, tuple[object, object, str]], *, restarts: str = "") -> None:
    """The plan shows exactly these differences; the apply repairs them, a third plan is empty, and no server
    but the one that is restarted is another process than before.
    """
    before = lab.inits(*(name for name in NAMES if name != restarts))
    assert lab.differences(*DOCUMENTS) == expected
    lab.apply(*DOCUMENTS)
    assert lab.is_settled(*DOCUMENTS)
    assert lab.inits(*before) == before


@pytest.mark.parametrize(
    ("name", "knob", "by_hand", "before", "after"),
    [
        ("a", "memory.max", str(80 << 20), 80 << 20, 64 << 20),
        ("a", "pids.max", "17", 17, 40),
        ("a", "pids.max", "max", None, 40),
        ("a", "cpu.limit", "25000", "250m", "500m"),
        ("a", "cpu.weight", "100", None, 200),
        ("c", "memory.max", str(80 << 20), 80 << 20, None),
        ("c", "pids.max", "99", 99, None),
    ],
)
def test_a_limit_that_was_changed_by_hand(
    made: Lab, name: str, knob: str, by_hand: str, before: object, after: object
) -> None:
    controller, old, new = FILES[knob]
    if knob == "cpu.weight" and version(controller) == 1:
        by_hand = "1024"
    write(made.group(name, controller) / (old if version(controller) == 1 else new)[0], by_hand)
    shown = made.limit("c", knob) if after is None else made.limit(name, knob)
    repair(made, {f"Server/{name} /spec/resources/{knob.replace('.', '/')}": (before, after, "live")})
    assert made.limit(name, knob) != shown


def test_two_limits_and_the_host_name_at_once(made: Lab) -> None:
    write(made.group("a", "pids") / "pids.max", "11")
    write(made.group("team/b", "pids") / "pids.max", "12")
    subprocess.run(["nsenter", "-t", str(made.init("a").pid), "-u", "hostname", "changed"], check=True)
    repair(
        made,
        {
            "Server/a /spec/resources/pids/max": (11, 40, "live"),
            "Server/a /spec/hostname": ("changed", "drifter", "live"),
            "Server/b /spec/resources/pids/max": (12, 30, "live"),
        },
    )
    uts = subprocess.run(
        ["nsenter", "-t", str(made.init("a").pid), "-u", "hostname"],
        check=True,
        capture_output=True,
        text=True,
    )
    assert uts.stdout == "drifter\n"


def test_a_limit_of_a_pool(made: Lab) -> None:
    controller, old, new = FILES["memory.max"]
    write(made.group("team", controller) / (old if version(controller) == 1 else new)[0], str(96 << 20))
    repair(made, {"Quota/team /spec/memory/max": (96 << 20, 128 << 20, "live")})
    assert made.limit("team", "memory.max") == str(128 << 20)


def test_a_limit_of_a_process(made: Lab) -> None:
    pid = made.init("a").pid
    made.run("a", "/usr/bin/prlimit", "--pid", "1", "--nofile=50:200")
    repair(
        made,
        {
            "Server/a /spec/resources/rlimits/nofile": (
                {"soft": 50, "hard": 200},
                {"soft": 100, "hard": 200},
                "live",
            )
        },
    )
    assert "100                  200" in Path(f"/proc/{pid}/limits").read_text()


def killed(lab: Lab, name: str) -> str:
    """The state of a server whose init was killed, once it has ended and the keeper has noticed."""
    wait_until(lambda: lab.processes(name) == [])
    lab.vsprov("logs", name)  # waits for the keeper
    state: str = json.loads(lab.vsprov("get", "server", name, "-o", "json").stdout)["status"]["state"]
    assert state == "Exited (SIGKILL)"
    return state


def test_an_init_that_was_killed(made: Lab) -> None:
    first = made.init("a")
    os.kill(first.pid, 9)
    repair(made, {"Server/a /spec/state": (killed(made, "a"), "Running", "none")}, restarts="a")
    assert made.init("a") != first


def test_a_server_that_was_killed_is_not_shown_as_stopped_on_purpose(made: Lab) -> None:
    os.kill(made.init("c").pid, 9)
    state = killed(made, "c")
    assert f"c     {state}" in made.vsprov("get", "servers", "c").stdout
    repair(made, {"Server/c /spec/state": (state, "Running", "none")}, restarts="c")


def kill_group(lab: Lab, name: str) -> None:
    write(lab.group(name) / "cgroup.kill", "1")
    wait_until(lambda: lab.processes(name) == [])


def remove_group(lab: Lab, name: str, controllers: tuple[str, ...]) -> None:
    kill_group(lab, name)
    folders = {hierarchy(controller) / lab.vsprov.name / name for controller in controllers}
    for folder in folders:
        for inner in sorted((path for path in folder.rglob("*") if path.is_dir()), reverse=True):
            inner.rmdir()
        wait_until(lambda folder=folder: removed(folder))


def removed(folder: Path) -> bool:
    try:
        folder.rmdir()
    except FileNotFoundError:
        return True
    except OSError:
        return False  # busy for a moment after its last process
    return True


def test_a_group_that_was_removed_everywhere(made: Lab) -> None:
    remove_group(made, "a", ("", "cpu", "memory", "pids"))
    repair(
        made,
        {
            "Server/a /status/cgroup": ("missing", "present", "none"),
            "Server/a /spec/state": ("Stopped", "Running", "none"),
        },
        restarts="a",
    )
    assert made.limit("a", "pids.max") == "40"


def test_a_group_that_was_removed_from_cgroup2_alone(made: Lab) -> None:
    remove_group(made, "a", ("",))
    made.apply(*DOCUMENTS)
    assert made.is_settled(*DOCUMENTS)
    assert made.init("a") and made.limit("a", "memory.max") == str(64 << 20)


def test_a_payload_that_was_removed(made: Lab) -> None:
    kill_group(made, "a")
    wait_until(lambda: removed(made.group("a") / "payload"))
    repair(made, {"Server/a /spec/state": (killed(made, "a"), "Running", "none")}, restarts="a")


def test_processes_that_were_moved_out(made: Lab) -> None:
    init = made.init("a")
    write(hierarchy("") / "cgroup.procs", str(init.pid))
    repair_moved(made, "cgroup2")
    assert made.init("a") == init


@pytest.mark.parametrize("controller", ["memory", "pids"])
def test_processes_that_were_moved_out_of_one_controller(made: Lab, controller: str) -> None:
    if version(controller) == 2:
        return  # there is but one hierarchy, the one of the test above
    init = made.init("a")
    write(hierarchies()[controller] / "cgroup.procs", str(init.pid))
    repair_moved(made, controller)
    group = f":{controller}:/{made.vsprov.name}/a\n"
    assert group in Path(f"/proc/{init.pid}/cgroup").read_text()
    assert made.init("a") == init


def repair_moved(lab: Lab, where: str) -> None:
    shown = {"Server/a /status/cgroup": (f"init is outside it ({where})", "init is in it", "live")}
    repair(lab, shown, restarts="a")


def test_a_server_whose_init_was_moved_out_is_stopped_all_the_same(made: Lab) -> None:
    init = made.init("a")
    write(hierarchy("") / "cgroup.procs", str(init.pid))
    made.vsprov("stop", "a")
    assert not Path(f"/proc/{init.pid}").exists() or status(init.pid, "State").startswith("Z")


def test_a_server_whose_init_was_moved_out_is_removed_all_the_same(made: Lab) -> None:
    init = made.init("a")
    write(hierarchy("") / "cgroup.procs", str(init.pid))
    made.vsprov("destroy", "-y", "--all")
    assert not Path(f"/proc/{init.pid}").exists() or status(init.pid, "State").startswith("Z")


@pytest.mark.parametrize("mark", ["applied", "init"])
def test_a_mark_that_was_removed(made: Lab, mark: str) -> None:
    init = made.init("a")
    os.removexattr(made.group("a"), f"trusted.vsprov.{mark}")
    if mark == "init":  # the process is found without it
        assert made.is_settled(*DOCUMENTS)
        return
    repair(made, {"Server/a /status/mark": ("edited or missing", "restored", "live")})
    assert made.init("a") == init


def test_a_mark_that_was_edited(made: Lab) -> None:
    name = "trusted.vsprov.applied"
    text = os.getxattr(made.group("a"), name)
    os.setxattr(made.group("a"), name, text.replace(b"infinity", b"1000000"))
    repair(made, {"Server/a /status/mark": ("edited or missing", "restored", "live")})
    assert os.getxattr(made.group("a"), name) == text


def test_an_init_mark_that_names_a_stranger_is_not_believed(made: Lab) -> None:
    """A17, CVE class of pid reuse: what is killed is the server's process and no other."""
    stranger = subprocess.Popen(["sleep", "infinity"])
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        for start in (start_time(stranger.pid), 1):
            mark = f"{stranger.pid} {start} {boot}"
            os.setxattr(made.group("a"), "trusted.vsprov.init", mark.encode())
            made.vsprov("stop", "a")
            assert stranger.poll() is None
            assert made.processes("a") == []
            made.apply(*DOCUMENTS)
    finally:
        stranger.kill()
        stranger.wait()


def garble(path: Path) -> None:
    path.write_bytes(b"\0garbage" + path.read_bytes()[8:])


def truncate(path: Path) -> None:
    path.write_bytes(b"")


def newer(path: Path) -> None:
    path.write_text('{"version": 999}')


@pytest.mark.parametrize("damage", [garble, truncate, Path.unlink, newer])
def test_a_record_on_disk_that_was_damaged(made: Lab, damage: Callable[[Path], None]) -> None:
    record = made.directory("a") / "server.json"
    whole = record.read_bytes()
    damage(record)
    repair(made, {"Server/a /status/mark": ("edited or missing", "restored", "live")})
    assert record.read_bytes() == whole


def test_both_records_lost_cost_a_restart_because_nobody_knows_what_runs(made: Lab) -> None:
    os.removexattr(made.group("a"), "trusted.vsprov.applied")
    (made.directory("a") / "server.json").unlink()
    repair(
        made,
        {"Server/a /spec": ("unknown: its record is lost or was edited", "as in the manifest", "restart")},
        restarts="a",
    )


def test_an_image_whose_record_was_damaged_is_imported_again(made: Lab) -> None:
    records = list((made.vsprov.root / "images").rglob("*.json"))
    assert records
    for record in records:
        record.write_bytes(b"")
    before = made.inits(*NAMES)
    plan = made.plan(*DOCUMENTS)
    assert [change["address"] for change in plan["resource_changes"]] == ["Image/host"]
    made.apply(*DOCUMENTS)
    assert made.is_settled(*DOCUMENTS)
    assert made.inits(*NAMES) == before


def test_a_knob_that_is_left_to_others_is_no_drift(lab: Lab) -> None:
    documents = (
        image(),
        server("a", resources={"pids": {"max": 20}}, annotations={"vsprov/ignore": "pids.max"}),
    )
    lab.converge(*documents)
    assert lab.limit("a", "pids.max") == "20"
    write(lab.group("a", "pids") / "pids.max", "55")
    assert lab.is_settled(*documents)
    assert plain((lab.group("a", "pids") / "pids.max").read_text().strip()) == "55"
    assert lab.vsprov("diff", "-", input=to_yaml(*documents)).stdout == ""
    now = lab.vsprov("get", "-o", "yaml").stdout
    assert "max: 20\n" in now
    assert lab.vsprov("plan", "--detailed-exitcode", "-", input=now).returncode == 0
    seen = json.loads(lab.vsprov("get", "server", "a", "-o", "json").stdout)
    assert seen["spec"]["resources"] == {"pids": {"max": 55}}


def test_drift_is_shown_to_people_and_by_the_exit_code(made: Lab) -> None:
    write(made.group("a", "pids") / "pids.max", "11")
    done = made.vsprov("plan", "--detailed-exitcode", "-", input=to_yaml(*DOCUMENTS), check=False)
    assert done.returncode == 2
    assert "spec.resources.pids.max: 11 → 40" in done.stdout
    assert (made.group("a", "pids") / "pids.max").read_text() == "11\n"
