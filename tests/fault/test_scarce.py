"""What is missing or scarce: /proc, processes, whole records, the cgroup namespace of the host."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.lab import Lab, hierarchy, image, server, to_yaml, version, wait_until
from vsprov.store.disk import sealed

LOOKING = (("plan", "-"), ("get",), ("ps",), ("image", "ls"), ("stop", "a"), ("destroy", "--all", "-y"))


def within(lab: Lab, script: str, *words: str, unshare: str, documents: str = "") -> tuple[int, str]:
    """(exit code, all that is said) of vsprov after a script, in namespaces of its own."""
    done = subprocess.run(
        ["unshare", unshare, "sh", "-ec", f'{script}; exec "$@"', "sh", *lab.vsprov.command(*words)],
        input=documents,
        capture_output=True,
        text=True,
        env=lab.vsprov.environment,
    )
    return done.returncode, done.stdout + done.stderr


def test_without_proc_every_command_says_what_is_missing(lab: Lab) -> None:
    documents = to_yaml(image(), server("a"))
    said = "vsprov: /proc/self/mountinfo: read: No such file or directory\n  hint: mount -t proc proc /proc\n"
    for words in LOOKING:
        done = within(lab, "umount --lazy /proc", *words, unshare="--mount", documents=documents)
        assert done == (69, said), words


def test_without_proc_doctor_says_that_servers_cannot_run(lab: Lab) -> None:
    code, said = within(lab, "umount --lazy /proc", "doctor", unshare="--mount")
    assert code == 69 and "Servers cannot run on this host; missing: /proc." in said


@pytest.fixture
def few(lab: Lab) -> Iterator[Path]:
    """A group in which there may be one process: vsprov itself."""
    group = hierarchy("pids") / f"{lab.vsprov.name}-few"
    group.mkdir()
    (group / "pids.max").write_text("1")
    yield group
    wait_until(lambda: (group / "pids.current").read_text().strip() == "0")
    group.rmdir()


def test_a_thread_that_cannot_be_started_is_no_fault_of_vsprov(lab: Lab, few: Path, tmp_path: Path) -> None:
    (tmp_path / "image/etc").mkdir(parents=True)
    documents = to_yaml(image("tree", directory=str(tmp_path / "image")))
    code, said = within(
        lab, f"echo $$ >{few}/cgroup.procs", "apply", "-y", "-", unshare="--mount", documents=documents
    )
    assert code == 1
    assert "vsprov: start a thread: Resource temporarily unavailable\n  hint: the host, or the group" in said
    lab.vsprov("apply", "-y", "-", input=documents)


def test_in_another_cgroup_namespace_nothing_starts_without_its_limits(lab: Lab) -> None:
    documents = to_yaml(image(), server("a", resources={"memory": {"max": "64Mi"}}))
    group = hierarchy("memory") / f"{lab.vsprov.name}-inside"
    group.mkdir()
    try:
        # The namespace begins at the group that its first process is in.
        enter = f"echo $$ >{group}/cgroup.procs; exec unshare --cgroup"
        command = " ".join(lab.vsprov.command("apply", "-y", "-"))
        code, said = within(lab, f"{enter} {command}", "version", unshare="--mount", documents=documents)
        assert code == 69
        assert f"find its root: {hierarchy('memory')} shows the group /.. of it" in said
    finally:
        wait_until(lambda: not (group / "cgroup.procs").read_text())
        group.rmdir()
    assert not lab.group("a").exists()


def test_where_ip_netns_exec_hides_the_cgroups_nothing_starts_without_its_limits(lab: Lab) -> None:
    documents = to_yaml(image(), server("a", resources={"memory": {"max": "64Mi"}}))
    hidden = "umount --lazy /sys; mount -t sysfs sysfs /sys"
    code, said = within(lab, hidden, "apply", "-y", "-", unshare="--mount", documents=documents)
    if version("memory") == 2:  # cgroup2 can be mounted again
        assert code == 0 and lab.limit("a", "memory.max") == str(64 << 20)
        return
    assert code == 69
    assert (
        "find its root: it is not mounted in this mount namespace\n  hint: `ip netns exec` hides it" in said
    )
    assert not lab.group("a").exists()
    code, said = within(lab, hidden, "doctor", unshare="--mount")
    assert code == 69 and "it is not mounted in this mount namespace" in said


def test_a_state_root_on_an_overlay_is_refused_by_plan_and_doctor(lab: Lab) -> None:
    root = lab.vsprov.folder
    mounted = (
        f"mount -t tmpfs {lab.vsprov.name} {root}; cd {root}; mkdir lower upper work tmp; "
        f"mount -t overlay {lab.vsprov.name} {root} -o lowerdir=lower,upperdir=upper,workdir=work"
    )
    documents = to_yaml(image(), server("a"))
    code, said = within(lab, mounted, "plan", "-", unshare="--mount", documents=documents)
    assert code == 69
    assert f"Host: state root {lab.vsprov.root}: an upper layer cannot be on an overlay" in said
    code, said = within(lab, mounted, "doctor", unshare="--mount")
    assert code == 69 and "missing: upper layers in state root." in said


def resealed(change: Callable[[dict[str, object]], None]) -> Callable[[Path], None]:
    def damage(record: Path) -> None:
        content, _ = sealed.read(str(record))
        assert content is not None
        change(content)
        record.write_bytes(sealed.seal(content))

    return damage


DAMAGES: dict[str, Callable[[Path], None]] = {
    "empty": lambda record: os.truncate(record, 0),
    "truncated": lambda record: os.truncate(record, 50),
    "no spec": resealed(lambda content: content.update(spec={})),
    "odd spec": resealed(lambda content: content.update(spec={"source": 3})),
    "no digest": resealed(lambda content: content.pop("digest")),
}


def test_a_damaged_record_of_an_image_is_shown_and_made_again(lab: Lab) -> None:
    documents = (image(), server("a", state="Stopped"))
    lab.apply(*documents)
    (record,) = (lab.vsprov.root / "images").iterdir()
    for damage in DAMAGES.values():
        damage(record)
        for words in (("get",), ("get", "-o", "wide"), ("get", "-o", "json"), ("get", "-o", "yaml")):
            assert "host" in lab.vsprov(*words).stdout
        assert "host" in lab.vsprov("image", "ls").stdout
        assert lab.vsprov("image", "verify", check=False).returncode == 1
        lab.converge(*documents)
        assert lab.vsprov("image", "verify").returncode == 0


def test_sources_of_many_binds_are_open_at_once(lab: Lab, tmp_path: Path) -> None:
    mounts = [{"type": "bind", "source": "/usr", "target": f"/srv/{n}", "readOnly": True} for n in range(30)]
    manifest = tmp_path / "m.yaml"
    manifest.write_text(to_yaml(image(), *(server(f"s{n}", mounts=mounts) for n in range(12))))
    command = ["sh", "-c", 'ulimit -Sn 256 && exec "$@"', "sh", *lab.vsprov.command("apply", "-y", manifest)]
    done = subprocess.run(command, capture_output=True, text=True, env=lab.vsprov.environment, timeout=120)
    assert done.returncode == 0, done.stderr
