"""What a guest is, from its first instruction, and what the spawner refuses to make."""

from __future__ import annotations

import errno
import os
import re
import resource
import signal
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.features import hierarchies, requires
from tests.instance import CHECKOUT
from tests.kernel.guests import BASE, MASK, SECONDS, Workshop, ended, members, open_workshop
from vsprov.engine.run import spawn
from vsprov.engine.run.spawn import Spawner
from vsprov.errors import FailedError
from vsprov.guest.sys_calls import raw_syscall
from vsprov.kernel import process, syscall

KCMP = {"x86_64": 312, "aarch64": 272}[os.uname().machine]
NAMESPACES = ("cgroup", "ipc", "mnt", "net", "pid", "user", "uts")
STANDARD_MOUNTS = {
    ("/", "overlay", "rw,nodev,relatime"),
    ("/dev", "tmpfs", "rw,nosuid,noexec,relatime"),
    ("/dev/mqueue", "mqueue", "rw,nosuid,nodev,noexec,relatime"),
    ("/dev/pts", "devpts", "rw,nosuid,noexec,relatime"),
    ("/dev/shm", "tmpfs", "rw,nosuid,nodev,noexec,relatime"),
    ("/proc", "proc", "rw,nosuid,nodev,noexec,relatime"),
    ("/sys", "sysfs", "ro,nosuid,nodev,noexec,relatime"),
    ("/sys/fs/cgroup", "cgroup2", "rw,nosuid,nodev,noexec,relatime"),
}


@pytest.fixture
def workshop() -> Iterator[Workshop]:
    with open_workshop() as made:
        yield made


def bind(source: Path, target: str, **more: Any) -> dict[str, Any]:
    return {"type": "bind", "source": str(source), "target": target, **more}


def mounts_in(text: str) -> set[tuple[str, str, str]]:
    found = set()
    for line in text.splitlines():
        fields, _, tail = line.partition(" - ")
        found.add((fields.split()[4], tail.split()[0], fields.split()[5]))
    return found


# -- what a guest is


@pytest.mark.vm_subset
def test_a_guest_is_the_first_process_in_namespaces_of_its_own(workshop: Workshop) -> None:
    listing = " ".join(f"/proc/self/ns/{name}" for name in NAMESPACES)
    lines = workshop.shell(
        f"echo $$; hostname; for n in {listing}; do readlink $n; done; ps | wc -l"
    ).splitlines()
    assert lines[:2] == ["1", "guest1"]
    host = [os.readlink(f"/proc/self/ns/{name}") for name in NAMESPACES]
    assert [line.split(":")[0] for line in lines[2:9]] == list(NAMESPACES)
    assert not set(lines[2:9]) & set(host)
    assert lines[9] == "4"  # the heading, the shell, ps, wc: nobody else is to be seen


@pytest.mark.vm_subset
def test_a_guest_has_the_eleven_capabilities_and_gains_none(workshop: Workshop) -> None:
    status = workshop.shell("cat /proc/self/status")
    caps = {
        line.split(":")[0]: line.split()[1]
        for line in status.splitlines()
        if line.startswith(("Cap", "NoNew"))
    }
    mask = f"{MASK:016x}"
    assert caps == {
        "CapInh": "0" * 16,
        "CapPrm": mask,
        "CapEff": mask,
        "CapBnd": mask,
        "CapAmb": "0" * 16,
        "NoNewPrivs": "1",
    }


def test_a_user_other_than_root_has_no_effective_capability(workshop: Workshop) -> None:
    status = workshop.shell("cat /proc/self/status", user="1000")
    assert f"CapEff:\t{0:016x}" in status
    assert f"CapPrm:\t{0:016x}" in status
    assert f"CapBnd:\t{MASK:016x}" in status


@pytest.mark.vm_subset
def test_a_guest_sees_exactly_the_expected_mounts(workshop: Workshop) -> None:
    text = workshop.shell("cat /proc/self/mountinfo")
    assert mounts_in(text) == STANDARD_MOUNTS
    assert str(workshop.folder) not in text


def test_nothing_changes_in_the_mounts_of_the_host(workshop: Workshop) -> None:
    before = Path("/proc/self/mountinfo").read_text()
    workshop.run(workshop.request("sleep", "1000"))
    assert Path("/proc/self/mountinfo").read_text() == before


def test_the_standard_devices_work_and_no_other_can_be_made(workshop: Workshop) -> None:
    said = workshop.shell(
        "cd /dev; stat -c '%n %t:%T %a' null zero full random urandom tty;"
        "echo gone > null; head -c 3 zero | wc -c;"
        "for link in ptmx fd stdin stdout stderr; do readlink $link; done;"
        "for place in / /dev /tmp /dev/shm; do if mknod $place/b b 8 0 2>/dev/null; then echo made; fi; done;"
        "ls -A /dev | wc -l"
    )
    assert said.splitlines() == [
        *("null 1:3 666", "zero 1:5 666", "full 1:7 666", "random 1:8 666", "urandom 1:9 666", "tty 5:0 666"),
        "3",
        *("pts/ptmx", "/proc/self/fd", "/proc/self/fd/0", "/proc/self/fd/1", "/proc/self/fd/2"),
        "14",
    ]


def test_a_device_node_in_the_image_cannot_be_opened(workshop: Workshop) -> None:
    os.mknod(workshop.image / "zero", 0o020666, os.makedev(1, 5))
    (workshop.image / "dev/null").write_text("a file of the image\n")
    said = workshop.shell("head -c 1 /zero 2>&1 || stat -c %F /dev/null")
    assert said.splitlines() == ["head: /zero: Permission denied", "character special file"]


@pytest.mark.vm_subset
def test_no_descriptor_of_the_host_is_left_open(workshop: Workshop) -> None:
    spare = os.open("/etc", os.O_RDONLY)
    os.set_inheritable(spare, True)
    try:
        with Spawner() as workshop.spawner:
            # As pid 1 the shell shows what execve left; its own pipes close again.
            said = workshop.shell("for f in /proc/1/fd/*; do echo ${f##*/} $(readlink $f); done")
    finally:
        os.close(spare)
    console = workshop.folder / "1/console.log"
    assert [line for line in said.splitlines() if "pipe:" not in line] == [
        "0 /dev/null",
        f"1 {console}",
        f"2 {console}",
    ]


@pytest.mark.vm_subset
def test_a_guest_is_in_its_groups_before_its_first_instruction(workshop: Workshop) -> None:
    request = workshop.request("cat", "/proc/self/cgroup")
    guest = workshop.ready(request)
    for group in (request["cgroup"]["payload"], *request["cgroup"]["attach"]):
        assert members(Path(group)) == [guest.pid]
    workshop.spawner.release(guest.number)
    assert workshop.wait(guest.number, "running", "exited")
    workshop.wait(guest.number, "exited")
    seen = {line.split(":")[1]: line.split(":")[2] for line in workshop.output().splitlines()}
    attached = [name for name in hierarchies() if workshop.group(1, name).is_dir()]
    assert {name: seen[name] for name in attached} == dict.fromkeys(attached, "/")


def test_a_guest_has_a_session_and_default_signals_whatever_its_maker_ignores(workshop: Workshop) -> None:
    before = {number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGINT, signal.SIGTERM)}
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
    try:
        with Spawner() as workshop.spawner:
            session = workshop.shell("cut -d' ' -f1,5,6 /proc/1/stat")
            # Not by a shell: as pid 1 it ignores a signal of its own choice.
            workshop.end(workshop.request("grep", "-E", "Sig(Blk|Ign)", "/proc/self/status"))
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
        for number, handler in before.items():
            signal.signal(number, handler)
    assert session == "1 1 1\n"
    assert workshop.output().splitlines() == [f"SigBlk:\t{0:016x}", f"SigIgn:\t{0:016x}"]


def test_only_the_loopback_device_exists_and_it_is_up(workshop: Workshop) -> None:
    said = workshop.shell(
        "ls /sys/class/net; cat /sys/class/net/lo/flags; ls /proc/sys/net/ipv4/conf | wc -l"
    )
    assert said.splitlines() == ["lo", "0x9", "3"]


def test_environment_directory_umask_and_limits_are_those_of_the_request(workshop: Workshop) -> None:
    said = workshop.shell(
        "env -u SHLVL -u PWD -u OLDPWD env | sort; pwd; umask; ulimit -n; ulimit -Hn;"
        "cat /proc/self/oom_score_adj",
        env={"PATH": "/bin", "A": "b c", "UMLAUT": "ä"},
        cwd="/srv",
        umask=0o027,
        rlimits=[(resource.RLIMIT_NOFILE, 100, 200)],
        oom_score_adj=300,
    )
    assert said.splitlines() == ["A=b c", "PATH=/bin", "UMLAUT=ä", "/srv", "0027", "100", "200", "300"]


def test_limits_not_asked_for_are_those_of_the_client(workshop: Workshop) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    assert workshop.shell("ulimit -n; ulimit -Hn").split() == [str(soft), str(hard)]


def test_a_seccomp_filter_is_in_force_whether_or_not_privileges_may_be_gained(workshop: Workshop) -> None:
    number = {"x86_64": 83, "aarch64": 34}[os.uname().machine]  # mkdir, mkdirat
    program = b"".join(
        struct.pack("HBBI", *line)
        for line in (
            (0x20, 0, 0, 0),
            (0x15, 0, 1, number),
            (0x06, 0, 0, 0x50000 | errno.EXDEV),
            (0x06, 0, 0, 0x7FFF0000),
        )
    )
    for no_new_privs in (True, False):
        said = workshop.shell(
            "grep -E '^(Seccomp|NoNewPrivs):' /proc/self/status; mkdir /x 2>&1 || true",
            seccomp=program,
            no_new_privs=no_new_privs,
        )
        assert said.splitlines() == [
            f"NoNewPrivs:\t{int(no_new_privs)}",
            "Seccomp:\t2",
            "mkdir: can't create directory '/x': Invalid cross-device link",
        ]


def test_without_an_id_map_the_guest_has_the_hosts_ids(workshop: Workshop) -> None:
    said = workshop.shell(
        "readlink /proc/self/ns/user; cat /proc/self/uid_map; stat -c %u /etc /bin", id_map=None
    )
    assert said.splitlines() == [
        os.readlink("/proc/self/ns/user"),
        f"{0:10} {0:10} {4294967295:10}",
        "0",
        "0",
    ]


def test_a_guest_whose_calls_are_made_in_python_is_the_same(workshop: Workshop) -> None:
    source = workshop.folder / "source"
    source.mkdir()
    (source / "file").touch()
    script = (
        "hostname; grep -E '^(Cap|NoNew|Sig|Uid|Gid|Groups|Seccomp)' /proc/self/status;"
        "cut -d' ' -f5- /proc/self/mountinfo; cut -d: -f2- /proc/self/cgroup; pwd; umask; ulimit -n; env;"
        "ls -ln /dev /mapped/new; wc -c < /proc/version"
    )
    changes: dict[str, Any] = {
        "hostname": "same",
        "user": "app",
        "cwd": "/srv",
        "masks": ["/proc/version", "/proc/bus", "/none"],
        "read_only_paths": ["/proc/sys", "/none"],
        "rlimits": [(resource.RLIMIT_NOFILE, 100, 200)],
        "mounts": [
            bind(source, "/mapped/new", idmap=True),
            {"type": "tmpfs", "target": "/cache", "size": 65536},
        ],
        "env": {"PATH": "/nowhere:/bin", "A": "b"},
    }
    said = []
    for in_python in (False, True):
        with Spawner(in_python=in_python) as workshop.spawner:
            said.append(
                re.sub(
                    r"upperdir=\S*|\d+:\d+|[A-Z][a-z]{2} [ \d:]+|[ug]id=\d+",
                    "",
                    workshop.shell(script, **changes),
                )
            )
            failures = [
                workshop.failure(workshop.request("none", env={"PATH": "/nowhere:/bin"})),
                workshop.failure(workshop.request("/etc/probe")),
                workshop.failure(workshop.request("true", cwd="/proc/self/fd/3")),
                workshop.failure(workshop.request("true", user="nobody-here")),
            ]
            assert [(each["step"], each["errno"]) for each in failures] == [
                ("exec none", errno.ENOENT),
                ("exec /etc/probe", errno.EACCES),
                ("working directory /proc/self/fd/3", errno.ELOOP),
                ("user nobody-here", errno.ENOENT),
            ]
            guest = workshop.ready(workshop.request("sh", "-c", "echo I ran"))
        assert ended(guest.pid)
        assert workshop.output() == ""
    assert said[0] == said[1]
    assert said[0].startswith("same\n")


# -- root file systems


def test_the_image_is_shared_and_what_a_guest_writes_is_its_own(workshop: Workshop) -> None:
    said = workshop.shell(
        "stat -c '%u:%g' /etc/probe; echo mine > /etc/probe; cat /etc/probe; mkdir /d; stat -c %u /d"
    )
    assert said.splitlines() == ["0:0", "mine", "0"]
    assert (workshop.image / "etc/probe").read_text() == "of the image\n"
    upper = workshop.folder / "1/upper"
    base = workshop.request("true")["id_map"]["base"] - 65536
    assert {(path.name, path.stat().st_uid) for path in (upper / "etc/probe", upper / "d")} == {
        ("probe", base),
        ("d", base),
    }


def test_the_topmost_of_several_layers_wins_whatever_their_names_hold(workshop: Workshop) -> None:
    layers: list[str] = []
    for name in ("top,:\\", "middle \udcff"):
        layer = workshop.folder / name
        (layer / "etc").mkdir(parents=True)
        (layer / "etc/probe").write_text(name, errors="surrogateescape")
        (layer / f"only-{len(layers)}").touch()
        layers.append(str(layer))
    odd = workshop.folder / "upper:,\\"
    for part in ("upper", "work"):
        (odd / part).mkdir(parents=True)
        os.chown(odd / part, BASE + 65536, BASE + 65536)
    root = {"lower": [*layers, str(workshop.image)], "upper": str(odd / "upper"), "work": str(odd / "work")}
    assert (
        workshop.shell("cat /etc/probe; ls -d /only-*; touch /new", root=root) == "top,:\\/only-0\n/only-1\n"
    )
    assert (odd / "upper/new").exists()


@pytest.mark.parametrize("layers", [1, 2])
def test_a_root_without_an_upper_layer_is_read_only(workshop: Workshop, layers: int) -> None:
    (workshop.folder / "more").mkdir()
    lower = [str(workshop.folder / "more"), str(workshop.image)][-layers:]
    root = {"lower": lower, "upper": None, "work": None}
    said = workshop.shell("touch /etc/x 2>&1 || stat -c %u /etc/probe", root=root)
    assert said.splitlines() == ["touch: /etc/x: Read-only file system", "0"]


def test_a_read_only_root_keeps_its_upper_layer_clean(workshop: Workshop) -> None:
    said = workshop.shell("touch /etc/x 2>&1 || touch /dev/shm/x; ls /dev/shm", root={"read_only": True})
    assert said.splitlines() == ["touch: /etc/x: Read-only file system", "x"]
    assert list((workshop.folder / "1/upper").iterdir()) == []


@pytest.mark.vm_subset
def test_mount_points_that_are_missing_in_a_read_only_root_are_made(workshop: Workshop) -> None:
    mounts = [{"type": "tmpfs", "target": "/m/deep"}, bind(workshop.image / "etc/probe", "/f/file")]
    request = workshop.request("sh", "-c", "touch /m/x /m/deep/x; cat /f/file", mounts=mounts)
    request["root"]["read_only"] = True
    for _ in range(2):  # the second time they are there
        assert workshop.end(request)["code"] == 0
    assert workshop.output().splitlines() == [
        *("touch: /m/x: Read-only file system", "of the image") * 2,
    ]


@pytest.mark.parametrize("name", ["proc", "sys", "dev"])
@pytest.mark.parametrize("kind", ["link", "file"])
def test_an_image_whose_system_directory_is_something_else_is_refused(
    workshop: Workshop, name: str, kind: str
) -> None:
    victim = workshop.folder / "victim"
    victim.mkdir()
    (workshop.image / name).rmdir()
    if kind == "link":
        (workshop.image / name).symlink_to(victim)
    else:
        (workshop.image / name).touch()
    event = workshop.failure(workshop.request("true"))
    assert (event["step"], event["errno"]) == (f"mount /{name}", errno.ENOTDIR)
    assert list(victim.iterdir()) == []
    assert members(workshop.group(1) / "payload") == []


def test_missing_system_directories_are_made(workshop: Workshop) -> None:
    for name in ("proc", "sys", "dev"):
        (workshop.image / name).rmdir()
    assert mounts_in(workshop.shell("cat /proc/self/mountinfo")) == STANDARD_MOUNTS


# -- mounts asked for


@pytest.mark.vm_subset
def test_a_read_only_bind_is_read_only_below_mounts_in_it_too(workshop: Workshop) -> None:
    source = workshop.folder / "source"
    (source / "sub").mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "none", str(source / "sub")], check=True)
    try:
        said = workshop.shell(
            "for file in /srv/x /srv/sub/x; do touch $file 2>&1 || true; done;"
            "if mount -o remount,bind,rw /srv 2>/dev/null; then echo remounted; fi",
            mounts=[bind(source, "/srv", read_only=True, recursive=True)],
        )
    finally:
        subprocess.run(["umount", str(source / "sub")], check=True)
    refused = "touch: /srv/{}: Read-only file system"
    assert said.splitlines() == [refused.format("x"), refused.format("sub/x")]


def test_a_bind_that_is_not_recursive_leaves_mounts_below_out(workshop: Workshop) -> None:
    source = workshop.folder / "source"
    (source / "sub").mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "none", str(source / "sub")], check=True)
    try:
        (source / "sub/hidden").touch()
        assert workshop.shell("ls /srv/sub", mounts=[bind(source, "/srv")]) == ""
    finally:
        subprocess.run(["umount", str(source / "sub")], check=True)


@pytest.mark.vm_subset
@pytest.mark.parametrize(
    "place", "dev dev/pts dev/mqueue proc proc/sys proc/bus proc/1 sys sys/fs/cgroup".split()
)
@pytest.mark.parametrize("kind", ["bind", "tmpfs"])
def test_a_mount_that_a_link_leads_over_what_confines_the_guest_is_refused(
    workshop: Workshop, place: str, kind: str
) -> None:
    source = workshop.folder / "source"
    source.mkdir()
    (workshop.image / "app").symlink_to("/")
    (workshop.image / "data").symlink_to(place)
    mount = bind(source, "/app/data") if kind == "bind" else {"type": "tmpfs", "target": "/app/data"}
    hidden = {"masks": ["/proc/bus"], "read_only_paths": ["/proc/sys"]}
    event = workshop.failure(workshop.request("sh", "-c", "echo I ran", mounts=[mount], **hidden))
    assert (event["step"], event["errno"], event["message"]) == (
        "mount /app/data",
        errno.EXDEV,
        "it lies on another file system of the server",
    )
    assert workshop.output() == ""
    assert members(workshop.group(1) / "payload") == []


@pytest.mark.vm_subset
def test_mounts_may_be_made_on_mounts_that_were_asked_for(workshop: Workshop) -> None:
    source = workshop.folder / "source"
    (source / "sub/deep").mkdir(parents=True)
    source.chmod(0o777)
    (workshop.image / "run").symlink_to("/srv/sub")
    subprocess.run(["mount", "-t", "tmpfs", "none", str(source / "sub")], check=True)
    targets = ("/srv/data", "/srv/data/more", "/srv/sub/below", "/run/by-link", "/dev/shm", "/dev/shm/own")
    tmpfs = [{"type": "tmpfs", "target": target} for target in targets]
    try:
        said = workshop.shell(
            "cut -d' ' -f5 /proc/self/mountinfo | grep -E '^/(srv|dev/shm)'; head -c1 /dev/zero | wc -c",
            mounts=[bind(source, "/srv", recursive=True), *tmpfs],
            masks=["/proc/version"],
        )
    finally:
        subprocess.run(["umount", str(source / "sub")], check=True)
    assert sorted(said.splitlines()) == [
        *("/dev/shm", "/dev/shm", "/dev/shm/own", "/srv", "/srv/data", "/srv/data/more", "/srv/sub"),
        *("/srv/sub/below", "/srv/sub/by-link", "1"),
    ]


@pytest.mark.vm_subset
def test_an_idmapped_bind_shows_the_owners_of_the_host_and_others_nobody(workshop: Workshop) -> None:
    source = workshop.folder / "source"
    source.mkdir(mode=0o777)
    source.chmod(0o777)
    (source / "user").touch()
    os.chown(source / "user", 1000, 1001)
    binds = [bind(source, "/mapped", idmap=True), bind(source, "/plain")]
    said = workshop.shell(
        "stat -c %u:%g /mapped/user /plain/user; touch /mapped/made /plain/shifted", mounts=binds
    )
    assert said.splitlines() == ["1000:1001", "65534:65534"]
    base = workshop.request("true")["id_map"]["base"] - 65536
    assert ((source / "made").stat().st_uid, (source / "shifted").stat().st_uid) == (0, base)


def test_a_source_that_cannot_be_idmapped_is_named(workshop: Workshop) -> None:
    request = workshop.request(
        "sleep", "1000", mounts=[bind(Path("/proc/sys"), "/srv", idmap=True, read_only=True)]
    )
    number = workshop.spawner.request(request)
    assert workshop.wait(number, "ready")["unmapped"] == ["/proc/sys"]


def test_binds_refuse_devices_and_honour_their_flags(workshop: Workshop) -> None:
    source = workshop.folder / "source"
    source.mkdir()
    os.mknod(source / "zero", 0o020666, os.makedev(1, 5))
    binds = [bind(source, "/a"), bind(source, "/b", nosuid=True, noexec=True, nodev=False)]
    said = workshop.shell(
        "if head -c1 /a/zero 2>/dev/null; then echo opened; fi; head -c1 /b/zero | wc -c;"
        "cat /proc/self/mountinfo",
        mounts=binds,
    )
    first, _, mountinfo = said.partition("\n")
    assert first == "1"
    flags = {place: options for place, _kind, options in mounts_in(mountinfo)}
    assert (flags["/a"], flags["/b"]) == ("rw,nodev,relatime", "rw,nosuid,noexec,relatime")


def test_mount_points_are_made_inside_the_root_whatever_links_lead_out(workshop: Workshop) -> None:
    victim = workshop.folder / "victim"
    victim.mkdir()
    (workshop.image / "abs").symlink_to(victim)
    (workshop.image / "up").symlink_to("../../../../../../../../srv")
    (workshop.folder / "source").mkdir()
    (workshop.folder / "source/here").touch()
    file = workshop.folder / "file"
    file.write_text("content\n")
    (workshop.image / str(victim).lstrip("/")).mkdir(parents=True)
    binds = [
        bind(workshop.folder / "source", "/abs/new/dir"),
        bind(workshop.folder / "source", "/up/dir"),
        bind(file, "/abs/file"),
    ]
    host = sorted(os.listdir("/srv"))
    said = workshop.shell(
        f"ls {victim}/new/dir; ls /srv/dir; cat {victim}/file; stat -c %u {victim}/new", mounts=binds
    )
    assert said.split() == ["here", "here", "content", "0"]
    assert list(victim.iterdir()) == []
    assert sorted(os.listdir("/srv")) == host


@pytest.mark.parametrize(
    ("target", "number"),
    [
        ("/dangling/x", errno.EEXIST),
        ("/etc/probe/x", errno.ENOTDIR),
        ("/missing/../x", errno.ENOENT),
        ("/proc/1/cwd/x", errno.ELOOP),
    ],
)
def test_a_mount_point_that_cannot_be_made_safely_is_refused(
    workshop: Workshop, target: str, number: int
) -> None:
    (workshop.image / "dangling").symlink_to("/nowhere")
    event = workshop.failure(workshop.request("true", mounts=[bind(workshop.image, target)]))
    assert (event["step"], event["errno"]) == (f"mount {target}", number)


def test_a_source_below_a_link_is_refused_when_links_are_not_to_be_followed(workshop: Workshop) -> None:
    (workshop.folder / "volume").mkdir()
    (workshop.folder / "volume/config").symlink_to("/etc")
    source = workshop.folder / "volume/config/ssl"
    event = workshop.failure(workshop.request("true", mounts=[bind(source, "/srv", nofollow=True)]))
    assert (event["step"], event["errno"], event["path"]) == ("mount /srv", errno.ELOOP, str(source))


def test_a_temporary_file_system_has_the_size_and_mode_asked_for(workshop: Workshop) -> None:
    said = workshop.shell(
        "stat -c '%a %u' /tmp /cache;"
        "dd if=/dev/zero of=/tmp/x bs=64k count=2 2>/dev/null || stat -c %s /tmp/x",
        mounts=[
            {"type": "tmpfs", "target": "/tmp", "size": 65536, "mode": 0o1777},
            {
                "type": "tmpfs",
                "target": "/cache",
                "size": None,
                "mode": 0o700,
                "nosuid": True,
                "noexec": True,
            },
        ],
    )
    assert said.splitlines() == ["1777 0", "700 0", "65536"]


def test_masked_paths_are_empty_and_read_only_paths_stay_as_they_are(workshop: Workshop) -> None:
    said = workshop.shell(
        "wc -c < /proc/version; ls -A /proc/bus /sys/firmware | wc -w; ls /etc; wc -c < /etc/probe;"
        "touch /etc/x 2>&1 || cd /proc/sys/net/ipv4; sh -c 'echo 1 > ip_forward' 2>&1 || cat ip_forward",
        masks=["/proc/version", "/proc/bus", "/sys/firmware", "/etc/none", "/etc/none/x", "/etc/probe"],
        read_only_paths=["/proc/sys", "/etc", "/none"],
    )
    assert said.splitlines() == [
        "0",
        "2",  # the two headings of ls
        *("group", "passwd", "probe"),
        "0",
        "touch: /etc/x: Read-only file system",
        "sh: can't create ip_forward: Read-only file system",
        "0",
    ]


# -- the gate


@pytest.mark.vm_subset
def test_a_guest_never_runs_when_the_client_closes_at_the_gate(workshop: Workshop) -> None:
    with Spawner() as workshop.spawner:
        guest = workshop.ready(workshop.request("sh", "-c", "echo I ran"))
        assert process.start_time(guest.pid) == guest.start
    assert ended(guest.pid)
    assert workshop.output() == ""
    assert members(workshop.group(1) / "payload") == []


@pytest.mark.vm_subset
def test_guests_never_run_when_the_spawner_is_killed_at_the_gate(workshop: Workshop) -> None:
    spawner = Spawner()
    workshop.spawner, kept = spawner, workshop.spawner
    guests = [workshop.ready(workshop.request("sh", "-c", "echo I ran")) for _ in range(3)]
    os.kill(spawner._pid, signal.SIGKILL)
    assert all(ended(guest.pid) for guest in guests)
    with pytest.raises(FailedError, match="spawner: died"):
        while True:
            workshop.spawner.events()
    spawner.close()
    workshop.spawner = kept
    assert [(workshop.folder / f"{number}/console.log").read_text() for number in (1, 2, 3)] == ["", "", ""]


def test_a_spawner_that_is_stopped_is_killed_when_it_is_no_longer_needed(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spawn, "SECONDS_TO_LEAVE", 0.2)
    spawner = Spawner()
    workshop.spawner, kept = spawner, workshop.spawner
    guest = workshop.ready(workshop.request("sh", "-c", "echo I ran"))
    os.kill(spawner.pid, signal.SIGSTOP)
    spawner.close()
    workshop.spawner = kept
    assert ended(guest.pid)
    assert process.start_time(spawner.pid) is None
    assert workshop.output() == ""


START = """
import resource, select, sys
from vsprov.engine.run.spawn import Spawner
from vsprov.errors import FailedError
resource.setrlimit(resource.RLIMIT_NOFILE, (int(sys.argv[1]),) * 2)
try:
    with Spawner() as spawner:
        select.select([spawner], [], [])
        spawner.events()
except FailedError as error:
    print(error, error.hint, sep="; ")
"""


@pytest.mark.parametrize(("files", "step"), [(4, ""), (5, ""), (6, "(probe overlay|start): ")])
def test_a_spawner_that_cannot_start_says_what_is_in_the_way(files: int, step: str) -> None:
    command = [sys.executable, "-c", START, str(files)]
    done = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, timeout=SECONDS)
    assert done.stderr == ""
    assert re.fullmatch(f"spawner: start: {step}Too many open files; .*ulimit -n\n", done.stdout), done.stdout


def test_a_released_guest_outlives_the_spawner(workshop: Workshop) -> None:
    with Spawner() as workshop.spawner:
        guest = workshop.run(workshop.request("sleep", "1000"))
    assert process.start_time(guest.pid) == guest.start
    assert Path(f"/proc/{guest.pid}/exe").readlink() == Path("/bin/busybox")


def test_the_interpreter_cannot_be_written_through_a_waiting_guest(workshop: Workshop) -> None:
    guest = workshop.ready(workshop.request("true"))
    program = os.open(f"/proc/{guest.pid}/exe", os.O_PATH)
    try:
        assert os.fstat(program).st_ino == os.stat(os.path.realpath(sys.executable)).st_ino
        assert os.fstatvfs(program).f_flag & os.ST_RDONLY
    finally:
        os.close(program)


@pytest.mark.parametrize("dumpable", ["0", "1", "2"])
def test_a_waiting_guest_shares_memory_only_where_changing_users_keeps_it_closed(
    workshop: Workshop, dumpable: str
) -> None:
    """fs.suid_dumpable, proc_sys_fs(5): only the spawner is shown another value."""
    file = workshop.folder / "suid_dumpable"
    file.write_text(f"{dumpable}\n")
    spawners: list[Spawner] = []

    def start_elsewhere() -> None:
        syscall.unshare(syscall.CLONE_NEWNS)
        syscall.mount("", "/", None, syscall.MS_REC | syscall.MS_PRIVATE)
        subprocess.run(["mount", "--bind", file, "/proc/sys/fs/suid_dumpable"], check=True)
        spawners.append(Spawner())
        workshop.spawner = spawners[0]
        workshop.failure({})  # by now it has looked; and over a /proc with mounts in it there can be no other
        subprocess.run(["umount", "/proc/sys/fs/suid_dumpable"], check=True)

    kept = workshop.spawner
    thread = threading.Thread(target=start_elsewhere)
    thread.start()
    thread.join()
    with spawners[0] as spawner:
        guest = workshop.ready(workshop.request("true"))
        shared = raw_syscall(KCMP, spawner.pid, guest.pid, 1, 0, 0, 0) == 0
        assert os.stat(f"/proc/{guest.pid}/mem").st_uid == 0  # root's, as of all that must not be traced
        workshop.spawner = kept
    assert shared == (dumpable != "1")


def test_an_aborted_guest_is_gone_and_says_so(workshop: Workshop) -> None:
    guest = workshop.ready(workshop.request("sh", "-c", "echo I ran"))
    workshop.spawner.abort(guest.number)
    workshop.wait(guest.number, "aborted")
    assert process.start_time(guest.pid) is None
    assert workshop.output() == ""


def test_a_guest_that_is_asked_for_and_aborted_at_once_never_runs(workshop: Workshop) -> None:
    requests = [workshop.request("sh", "-c", "echo I ran") for _ in range(5)]
    numbers = [workshop.spawner.request(request) for request in requests]
    for number in numbers:
        workshop.spawner.abort(number)
    for n, number in enumerate(numbers, 1):
        while workshop.wait(number, "ready", "aborted")["event"] != "aborted":
            continue
        assert members(workshop.group(n) / "payload") == []
        assert not os.path.exists(requests[n - 1]["console"]) or not os.path.getsize(
            requests[n - 1]["console"]
        )


def test_a_release_that_comes_early_answers_no_other_question_of_the_guest(workshop: Workshop) -> None:
    request = workshop.request("sh", "-c", "id -u", user="app")
    number = workshop.spawner.request(request)
    workshop.spawner.release(number)
    event = workshop.wait(number, "aborted", "failed")
    assert event["event"] == "aborted" or event["message"] == "released before it was ready"
    assert members(workshop.group(1) / "payload") == []


def test_a_guest_killed_at_the_gate_is_reported(workshop: Workshop) -> None:
    guest = workshop.ready(workshop.request("true"))
    os.kill(guest.pid, signal.SIGKILL)
    event = workshop.wait(guest.number, "failed")
    assert (event["step"], event["message"]) == ("gate", "killed by signal 9")


@pytest.mark.parametrize(
    ("script", "ending"),
    [("exit 0", {"code": 0}), ("exit 7", {"code": 7}), ("kill -9 $PPID; echo $$", {"code": 0})],
)
def test_the_exit_code_of_a_guest_is_reported(
    workshop: Workshop, script: str, ending: dict[str, int]
) -> None:
    guest = workshop.run(workshop.request("sh", "-c", script))
    event = workshop.wait(guest.number, "exited")
    assert event == {"id": guest.number, "event": "exited", **ending}


def test_the_signal_that_ends_a_guest_is_reported(workshop: Workshop) -> None:
    guest = workshop.run(workshop.request("sleep", "1000"))
    os.kill(guest.pid, signal.SIGKILL)
    assert workshop.wait(guest.number, "exited") == {"id": guest.number, "event": "exited", "signal": 9}


def test_many_guests_at_once_each_get_their_own(workshop: Workshop) -> None:
    requests = [
        workshop.request("sh", "-c", "hostname; echo $N", env={"PATH": "/bin", "N": str(n)})
        for n in range(1, 31)
    ]
    numbers = [workshop.spawner.request(request) for request in requests]
    for number in numbers:
        workshop.wait(number, "ready")
        workshop.spawner.release(number)
    for number in numbers:
        workshop.wait(number, "running")
        assert workshop.wait(number, "exited")["code"] == 0
    for n in range(1, 31):
        assert (workshop.folder / f"{n}/console.log").read_text() == f"guest{n}\n{n}\n"


def test_a_request_may_be_large(workshop: Workshop) -> None:
    env = {"PATH": "/bin"} | {f"BIG{n}": "x" * 100_000 for n in range(10)}
    assert workshop.shell("echo ${#BIG0} ${#BIG9}", env=env) == "100000 100000\n"


# -- refusals


@pytest.mark.parametrize(
    ("argv", "number"),
    [
        (["/none"], errno.ENOENT),
        (["none"], errno.ENOENT),
        (["/etc"], errno.EACCES),
        (["/etc/passwd"], errno.EACCES),
        (["/garbage"], errno.ENOEXEC),
        (["/script"], errno.ENOENT),
    ],
)
@pytest.mark.vm_subset
def test_a_command_that_cannot_be_executed_is_named(workshop: Workshop, argv: list[str], number: int) -> None:
    (workshop.image / "garbage").write_bytes(b"\0garbage")
    (workshop.image / "script").write_text("#!/no/such/interpreter\n")
    for name in ("garbage", "script"):
        (workshop.image / name).chmod(0o755)
    event = workshop.failure(workshop.request(*argv))
    assert (event["step"], event["errno"]) == (f"exec {argv[0]}", number)
    assert members(workshop.group(1) / "payload") == []


def test_what_the_host_lacks_is_named_and_other_guests_go_on(workshop: Workshop) -> None:
    missing = str(workshop.folder / "missing")
    requests = [
        (workshop.request("true", root={"lower": [missing]}), "mount root", missing),
        (workshop.request("true", root={"upper": missing}), "mount root", missing),
        (workshop.request("true", mounts=[bind(Path(missing), "/srv")]), "mount /srv", missing),
        (workshop.request("true", cgroup={"payload": missing}), "cgroup", missing),
        (
            workshop.request("true", cgroup={"attach": [missing]}),
            f"cgroup {missing}",
            f"{missing}/cgroup.procs",
        ),
        (workshop.request("true", console=f"{missing}/log"), "console", f"{missing}/log"),
        (workshop.request("true", reaper=missing), "reaper", missing),
    ]
    survivor = workshop.run(workshop.request("sleep", "1000"))
    for request, step, path in requests:
        event = workshop.failure(request)
        assert (event["step"], event["errno"], event["path"]) == (step, errno.ENOENT, path)
    assert process.start_time(survivor.pid) == survivor.start
    assert len(os.listdir(f"/proc/{workshop.spawner._pid}/task")) == 1


def test_a_malformed_request_fails_alone(workshop: Workshop) -> None:
    request = workshop.request("true")
    del request["root"]
    event = workshop.failure(request)
    assert event["message"] == "KeyError('root')"
    assert workshop.shell("echo still here") == "still here\n"


def test_a_guest_with_more_to_hide_than_is_kept_is_made_too(workshop: Workshop) -> None:
    masks = [f"/etc/none-{n}" for n in range(300)]
    assert workshop.shell("wc -c < /etc/probe", masks=[*masks, "/etc/probe"], read_only_paths=masks) == "0\n"


def test_many_mounts_are_made_in_their_order(workshop: Workshop) -> None:
    source = workshop.folder / "source"
    mounts = []
    for n in range(210):
        (source / str(n)).mkdir(parents=True)
        (source / str(n) / f"file{n}").touch()
        mounts.append(bind(source / str(n), f"/srv/{n % 200}/deep/er"))
    said = workshop.shell("ls /srv/3/deep/er /srv/199/deep/er; ls /srv | wc -l", mounts=mounts)
    assert said.split() == ["/srv/199/deep/er:", "file199", "/srv/3/deep/er:", "file203", "200"]


def test_a_console_that_is_a_link_is_refused(workshop: Workshop) -> None:
    request = workshop.request("true")
    target = workshop.folder / "target"
    Path(request["console"]).symlink_to(target)
    event = workshop.failure(request)
    assert (event["step"], event["errno"]) == ("console", errno.ELOOP)
    assert not target.exists()


def test_the_console_is_appended_to_and_may_be_reopened_by_the_guest(workshop: Workshop) -> None:
    request = workshop.request("sh", "-c", "echo one; echo two >> /dev/stdout; cat /dev/stdin")
    console = Path(request["console"])
    console.write_text("before\n")
    workshop.end(request)
    assert workshop.output() == "before\none\ntwo\n"
    assert console.stat().st_uid == request["id_map"]["base"]


def test_a_new_console_can_be_read_by_nobody_else(workshop: Workshop) -> None:
    workshop.shell("true")
    assert (workshop.folder / "1/console.log").stat().st_mode == 0o100600


@pytest.mark.parametrize(
    "cwd", [*(f"/proc/self/fd/{n}" for n in range(3, 12)), "/link", "/none", "/etc/probe"]
)
def test_a_working_directory_outside_or_absent_is_refused(workshop: Workshop, cwd: str) -> None:
    (workshop.image / "link").symlink_to("/proc/self/cwd")
    event = workshop.failure(workshop.request("pwd", cwd=cwd))
    assert event["step"] == f"working directory {cwd}"
    assert event["errno"] in (errno.ELOOP, errno.ENOENT, errno.ENOTDIR)


# -- users


@pytest.mark.parametrize(
    "user",
    [
        "0x1",
        "01",
        "+1",
        "1 ",
        " 1",
        "-1",
        "4294967295",
        "4294967296",
        "65536",
        "1_0",
        "",
        "\u0661",
        "a b",
        "1:",
        ":1",
        "1:-1",
        "root\n",
    ],
)
def test_a_user_that_is_neither_name_nor_number_is_refused(workshop: Workshop, user: str) -> None:
    event = workshop.failure(workshop.request("id", "-u", user=user))
    assert (event["step"], event["errno"]) == (f"user {user}", errno.EINVAL)


@pytest.mark.parametrize(
    ("user", "uid", "gid", "groups"),
    [
        ("0", "0", "0", []),
        ("1", "1", "0", []),
        ("1:2", "1", "2", []),
        ("65535:65535", "65535", "65535", []),
        ("app", "1000", "1001", ["29", "44"]),
        ("1000", "1000", "1001", ["29", "44"]),
        ("app:audio", "1000", "29", []),
        ("app:5", "1000", "5", []),
        ("1000:1000", "1000", "1000", []),
        ("root", "0", "0", []),
    ],
)
def test_users_and_groups_are_those_of_the_image(
    workshop: Workshop, user: str, uid: str, gid: str, groups: list[str]
) -> None:
    with (workshop.image / "etc/passwd").open("a") as file:
        file.write("1000:x:0:0::/:/bin/sh\nwide:x:99999999999:0::/:\nshort:x\n\n")
    said = workshop.shell("grep -E '^(Uid|Gid|Groups)' /proc/self/status", user=user)
    lines = [line.split()[1:] for line in said.splitlines()]
    assert lines == [[uid] * 4, [gid] * 4, groups]


HOMES = [
    *(("0", "/root"), ("0:0", "/root"), ("root", "/root"), ("app", "/srv"), ("1000", "/srv")),
    *(("1000:5", "/srv"), ("app:audio", "/srv"), ("77", "/"), ("77:77", "/"), ("odd", "/"), ("none", "/")),
    *(("far", "/" + "ä" * 1000), ("farther", "/")),
]


@pytest.mark.parametrize(("user", "home"), HOMES)
@pytest.mark.parametrize("reaper", [None, "/usr/bin/catatonit"])
def test_the_home_of_a_user_is_the_images_unless_the_environment_says_otherwise(
    workshop: Workshop, user: str, home: str, reaper: str | None
) -> None:
    if reaper:
        requires("catatonit")
    with (workshop.image / "etc/passwd").open("a") as file:
        file.write(f"odd:x:5:5::relative:/bin/sh\nnone:x:6:6\nfar:x:7:7::/{'ä' * 1000}:/bin/sh\n")
        file.write(f"farther:x:8:8::/{'a' * 5000}:/bin/sh\n")
    shown = 'echo "$HOME"'
    assert workshop.shell(shown, user=user, home=True, reaper=reaper) == f"{home}\n"
    own = {"PATH": "/bin", "HOME": "/own"}
    assert workshop.shell(shown, user=user, home=True, env=own, reaper=reaper) == "/own\n"
    assert workshop.shell('echo "${HOME-none}"', user=user, reaper=reaper) == "none\n"


@pytest.mark.parametrize("user", ["nobody-here", "app:nobody-here", "wide", "short"])
def test_a_user_or_group_the_image_does_not_have_is_named(workshop: Workshop, user: str) -> None:
    with (workshop.image / "etc/passwd").open("a") as file:
        file.write("wide:x:99999999999:0::/:\nshort:x\n\n")
    event = workshop.failure(workshop.request("true", user=user))
    assert (event["step"], event["errno"], event["path"]) == (
        f"user {user}",
        errno.ENOENT,
        user.rpartition(":")[2],
    )


@pytest.mark.parametrize("target", ["/proc/kmsg", "/proc/version", "/sys/kernel/notes", "/dev/null"])
def test_a_passwd_file_that_is_a_link_to_one_of_the_kernels_is_not_opened(
    workshop: Workshop, target: str
) -> None:
    (workshop.image / "etc/passwd").unlink()
    (workshop.image / "etc/passwd").symlink_to(target)
    unread = klog_unread()
    event = workshop.failure(workshop.request("true", user="app"))
    assert (event["step"], event["errno"], event["path"]) == ("user app", errno.EINVAL, "/etc/passwd")
    assert klog_unread() >= unread


def klog_unread() -> int:
    """How many bytes /proc/kmsg holds that nobody has read: syslog(2), SYSLOG_ACTION_SIZE_UNREAD."""
    return raw_syscall({"x86_64": 103, "aarch64": 116}[os.uname().machine], 9, *(0,) * 5)


@pytest.mark.parametrize("kind", ["fifo", "device", "directory", "large", "magic link"])
def test_a_hostile_passwd_file_neither_hangs_nor_leads_astray(workshop: Workshop, kind: str) -> None:
    path = workshop.image / "etc/passwd"
    path.unlink()
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "device":
        os.mknod(path, 0o020666, os.makedev(1, 5))
    elif kind == "directory":
        path.mkdir()
    elif kind == "large":
        path.write_text("#" * (1 << 20) + "\n")
    else:
        path.symlink_to("/proc/self/fd/3")
    event = workshop.failure(workshop.request("true", user="app"))
    expected = {
        "fifo": errno.EINVAL,
        "device": errno.EINVAL,
        "directory": errno.EINVAL,
        "large": errno.EFBIG,
        "magic link": errno.ENOENT,
    }
    assert (event["step"], event["errno"]) == ("user app", expected[kind])
    assert workshop.shell("grep ^Uid /proc/self/status", user="7:7").split() == ["Uid:", *["7"] * 4]


# -- the reaper


@pytest.mark.parametrize("program", ["catatonit", "tini-static"])
def test_the_reaper_is_the_first_process_though_the_image_holds_none(
    workshop: Workshop, program: str
) -> None:
    requires(program.partition("-")[0])
    path = subprocess.run(["which", program], check=True, capture_output=True, text=True).stdout.strip()
    script = (
        "readlink /proc/1/exe; tr '\\0' ' ' < /proc/1/cmdline; echo; echo $PPID;"
        "if sh -c ': > /proc/1/exe' 2>/dev/null; then echo overwritten; fi; exit 9"
    )
    guest = workshop.run(workshop.request("sh", "-c", script, reaper=path))
    assert workshop.wait(guest.number, "exited") == {"id": guest.number, "event": "exited", "code": 9}
    lines = workshop.output().splitlines()
    assert [lines[0], *lines[2:]] == [f"/memfd:{program} (deleted)", "1"]
    assert lines[1].startswith(f"{path} -- /bin/sh -c ")


def test_a_command_missing_below_the_reaper_is_named_too(workshop: Workshop) -> None:
    requires("catatonit")
    event = workshop.failure(workshop.request("none", reaper="/usr/bin/catatonit"))
    assert (event["step"], event["errno"], event["path"]) == ("exec none", errno.ENOENT, "none")
