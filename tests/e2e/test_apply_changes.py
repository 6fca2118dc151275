"""Servers that are started, stopped and changed by an apply: what of them stays."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest

from tests import leaks
from tests.lab import Document, Lab, image, server, status, to_yaml, wait_until


def test_new_privileges_can_be_allowed(lab: Lab) -> None:
    lab.converge(image(), server("a", security={"noNewPrivileges": False}))
    assert status(lab.init("a").pid, "NoNewPrivs") == "0"


def stopped(document: Document) -> Document:
    return document | {"spec": document["spec"] | {"state": "Stopped"}}


def test_a_read_only_root_refuses_writes_but_not_to_its_mounts(lab: Lab) -> None:
    lab.converge(
        image(),
        server("a", security={"readOnlyRoot": True}, mounts=[{"type": "tmpfs", "target": "/tmp"}]),
    )
    with pytest.raises(OSError, match="Read-only file system"):
        (lab.root("a") / "etc/new").write_text("")
    assert lab.shell("a", "echo yes > /tmp/new; cat /tmp/new; touch /dev/shm/new") == "yes\n"


def test_id_ranges_of_servers_do_not_overlap_and_are_used_again(lab: Lab) -> None:
    lab.converge(image(), *(server(name) for name in ("a", "b", "c")))
    bases = {name: lab.directory(name).joinpath("work").stat().st_uid for name in ("a", "b", "c")}
    ordered = sorted(bases.values())
    assert all(later - earlier >= 65536 for earlier, later in pairwise(ordered))
    lab.vsprov("apply", "-y", "--prune", "-", input=to_yaml(image(), server("a"), server("c")))
    lab.converge(image(), server("a"), server("c"), server("d"))
    assert lab.directory("d").joinpath("work").stat().st_uid == bases["b"]


def test_what_a_server_wrote_outlives_a_restart_and_a_changed_command(lab: Lab) -> None:
    lab.converge(image(), server("a", "/bin/sh", "-c", "date +%N > /etc/kept; exec sleep infinity"))
    wait_until(
        lambda: (lab.root("a") / "etc/kept").exists() and (lab.root("a") / "etc/kept").read_text() != ""
    )
    before, first = (lab.root("a") / "etc/kept").read_text(), lab.init("a")
    lab.converge(image(), server("a", "sleep", "1000000"))
    assert lab.init("a") != first
    assert (lab.root("a") / "etc/kept").read_text() == before
    lab.converge(image(), server("a", "sleep", "1000000", state="Stopped"))
    lab.converge(image(), server("a", "sleep", "1000000"))
    assert (lab.root("a") / "etc/kept").read_text() == before


def test_a_server_that_needs_all_its_pids_can_be_restarted_at_once(lab: Lab) -> None:
    """The init that was stopped may not have been reaped yet, and counts until then."""
    full = server(
        "a",
        "/bin/sh",
        "-c",
        "sleep 1000 & sleep 1000 & sleep 1000 & echo all; wait",
        resources={"pids": {"max": 4}},
    )
    lab.converge(image(), full)
    for times in range(2, 5):
        wait_until(lambda: len(lab.processes("a")) == 4)
        lab.vsprov("restart", "a")
        wait_until(lambda times=times: lab.console("a") == "all\n" * times)


def test_an_ephemeral_server_forgets_when_it_stops(lab: Lab) -> None:
    write = server("a", "/bin/sh", "-c", "echo x >> /etc/count; exec sleep infinity", ephemeral=True)
    lab.converge(image(), write)
    wait_until(lambda: (lab.root("a") / "etc/count").exists())
    lab.converge(image(), stopped(write))
    assert list((lab.directory("a") / "upper").iterdir()) == []
    lab.converge(image(), write)
    wait_until(lambda: (lab.root("a") / "etc/count").exists())
    assert (lab.root("a") / "etc/count").read_text() == "x\n"
    lab.vsprov("stop", "a")
    assert list((lab.directory("a") / "upper").iterdir()) == []


def test_the_stop_signal_lets_the_server_end_in_its_own_way(lab: Lab) -> None:
    script = (
        "trap 'echo ended by INT; sleep 0.1; echo done; exit 0' INT; echo up; while :; do sleep 0.02; done"
    )
    trapped = server("a", "/bin/sh", "-c", script, init={"stopSignal": "INT", "stopTimeout": "30s"})
    lab.apply(image(), trapped)
    wait_until(lambda: lab.console("a") == "up\n")
    lab.converge(image(), stopped(trapped))
    assert lab.console("a") == "up\nended by INT\ndone\n"
    assert lab.processes("a") == []


def test_a_server_that_does_not_end_is_killed_after_its_time(lab: Lab) -> None:
    script = "trap 'echo no' TERM; echo up; while :; do sleep 0.02; done"
    stubborn = server("a", "/bin/sh", "-c", script, init={"stopTimeout": "50ms"})
    lab.apply(image(), stubborn)
    wait_until(lambda: lab.console("a") == "up\n")
    lab.converge(image(), stopped(stubborn))
    assert "no\n" in lab.console("a")
    assert lab.processes("a") == []


def test_a_server_that_takes_no_signal_is_killed_at_once(lab: Lab) -> None:
    deaf = server("a", "sleep", "infinity", init={"stopTimeout": "1h"})
    lab.apply(image(), deaf)
    lab.converge(image(), stopped(deaf))  # would hang for an hour otherwise
    assert lab.processes("a") == []


@pytest.mark.requires("catatonit")
@pytest.mark.bare_debian
def test_a_reaper_collects_orphans_and_passes_the_stop_signal_on(lab: Lab) -> None:
    orphans = "trap 'echo asked; exit 0' TERM; (sleep 0 & sleep 0 &) ; echo $$; while :; do sleep 0.02; done"
    reaped = server("a", "/bin/sh", "-c", orphans, init={"reaper": True})
    lab.apply(image(), reaped)
    wait_until(lambda: lab.console("a") != "")
    assert int(lab.console("a")) > 1
    wait_until(lambda: all(status(pid, "State")[:1] != "Z" for pid in lab.processes("a")))
    lab.converge(image(), stopped(reaped))
    assert "asked\n" in lab.console("a")


def test_a_stopped_server_is_made_but_does_not_run(lab: Lab) -> None:
    lab.converge(image(), server("a", state="Stopped", resources={"pids": {"max": 7}}))
    assert lab.processes("a") == []
    assert lab.limit("a", "pids.max") == "7"
    assert lab.directory("a").is_dir()


def test_dependants_are_started_after_what_they_need(lab: Lab) -> None:
    names = ("c", "b", "a")
    documents = [server(name, dependsOn=[{"name": need}]) for name, need in (("c", "b"), ("b", "a"))]
    lab.converge(image(), *documents, server("a"))
    starts = [lab.init(name) for name in names]
    assert starts[0].pid > starts[1].pid > starts[2].pid


def test_a_server_that_ends_at_once_fails_the_apply_and_its_exit_code_is_named(lab: Lab) -> None:
    # The other one takes its time to stop, so that the first has ended when the kernel is looked at again.
    script = "trap 'sleep 0.5; exit 0' TERM; echo up; while :; do sleep 0.02; done"
    slow = server("slow", "/bin/sh", "-c", script)
    lab.apply(image(), slow)
    wait_until(lambda: lab.console("slow") == "up\n")
    short = server("short", "/bin/sh", "-c", "echo last words; exit 3")
    said = lab.refused(image(), short, stopped(slow))
    assert "short" in said and "exited with code 3" in said
    assert "last words" in said


def test_the_console_log_is_added_to_when_the_server_starts_again(lab: Lab) -> None:
    talking = server("a", "/bin/sh", "-c", "echo here; exec sleep infinity")
    lab.apply(image(), talking)
    wait_until(lambda: lab.console("a") == "here\n")
    lab.apply(image(), stopped(talking))
    lab.apply(image(), talking)
    wait_until(lambda: lab.console("a") == "here\nhere\n")


def test_the_hosts_mounts_are_the_same_before_and_after(lab: Lab) -> None:
    before = leaks.mounts_of_host()
    lab.apply(image(), server("a", mounts=[{"type": "tmpfs", "target": "/srv/x"}]))
    assert leaks.mounts_of_host() == before


def test_nothing_of_the_apply_is_left_running(lab: Lab) -> None:
    lab.apply(image(), server("a"))
    keeper = lab.keeper()
    assert set(leaks.processes(lab.vsprov.name)) == {lab.init("a").pid, keeper}


def test_many_mounts_are_made_in_their_order(lab: Lab) -> None:
    targets = [f"/srv/{number}" for number in range(120)]
    lab.converge(
        image(),
        server(
            "a",
            mounts=[
                {"type": "bind", "source": "/usr/share", "target": target, "readOnly": True}
                for target in targets
            ],
        ),
    )
    found = [
        line.split()[4] for line in Path(f"/proc/{lab.init('a').pid}/mountinfo").read_text().splitlines()
    ]
    assert [point for point in found if point in targets] == sorted(targets)
