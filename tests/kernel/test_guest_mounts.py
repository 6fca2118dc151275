"""The root of a guest, and the mounts it was asked to have."""

from __future__ import annotations

import errno
import os
import subprocess
from pathlib import Path

import pytest

from tests.kernel.guests import (
    BASE,
    STANDARD_MOUNTS,
    Workshop,
    bind,
    members,
    mounts_in,
)

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
    root = {
        "lower": [*layers, str(workshop.image)],
        "upper": str(odd / "upper"),
        "work": str(odd / "work"),
        "disk": None,
    }
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


@pytest.mark.parametrize("owner", [(1000, 1001), (1000, BASE + 65536)])
def test_a_bind_shows_an_owner_of_the_host_as_root_and_stores_the_guests_other_users_as_they_are(
    workshop: Workshop, owner: tuple[int, int]
) -> None:
    source = workshop.folder / "source"
    source.mkdir(mode=0o755)
    os.chown(source, *owner)
    (source / "of-root").touch()
    said = workshop.shell(
        "stat -c %u:%g /srv /srv/of-root; touch /srv/a /srv/b; chown 33:34 /srv/b",
        mounts=[bind(source, "/srv", owner=owner)],
    )
    assert said.splitlines() == ["0:0", "65534:65534"]
    made = [(source / name).stat() for name in "ab"]
    base = BASE + 65536
    assert [(one.st_uid, one.st_gid) for one in made] == [owner, (base + 33, base + 34)]


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
    binds = [bind(source, "/a"), bind(source, "/b", nosuid=True, nodev=False)]
    said = workshop.shell(
        "if head -c1 /a/zero 2>/dev/null; then echo opened; fi; head -c1 /b/zero | wc -c;"
        "cat /proc/self/mountinfo",
        mounts=binds,
    )
    first, _, mountinfo = said.partition("\n")
    assert first == "1"
    flags = {place: options for place, _kind, options in mounts_in(mountinfo)}
    assert (flags["/a"], flags["/b"]) == ("rw,nodev,relatime", "rw,nosuid,relatime")


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


def test_mount_points_behind_dangling_links_are_made_where_these_lead_inside(workshop: Workshop) -> None:
    """As in a chroot: /etc/localtime leads to a file of a package that the image does not have."""
    outside = workshop.folder / "outside"
    outside.mkdir()
    (workshop.image / "etc/zone").symlink_to("/usr/share/zoneinfo/Etc/UTC")
    (workshop.image / "up").symlink_to(f"../../..{outside}/deep")
    (workshop.image / "first").symlink_to("second")
    (workshop.image / "second").symlink_to("/third/dir")
    (workshop.image / "usr").mkdir(mode=0o555)
    source, file = workshop.folder / "source", workshop.folder / "file"
    source.mkdir()
    (source / "here").touch()
    file.write_text("zone\n")
    binds = [bind(file, "/etc/zone"), bind(source, "/up/dir"), bind(source, "/first")]
    said = workshop.shell(
        f"cat /etc/zone; readlink /etc/zone; ls {outside}/deep/dir; ls /third/dir; stat -c '%u %a' /third",
        mounts=binds,
    )
    assert said.splitlines() == ["zone", "/usr/share/zoneinfo/Etc/UTC", "here", "here", "0 755"]
    assert list(outside.iterdir()) == []


@pytest.mark.parametrize("path", ["/srv/app", "/link/app"])
@pytest.mark.parametrize("read_only", [False, True])
def test_a_working_directory_that_is_absent_is_made(workshop: Workshop, path: str, read_only: bool) -> None:
    (workshop.image / "link").symlink_to("/elsewhere")
    said = workshop.shell("pwd; stat -c '%u %a' .", cwd=path, user="7:7", root={"read_only": read_only})
    assert said.splitlines() == [path.replace("link", "elsewhere"), "0 755"]


@pytest.mark.parametrize(
    ("target", "number"),
    [
        ("/loop/x", errno.ELOOP),
        ("/etc/probe/x", errno.ENOTDIR),
        ("/missing/../x", errno.ENOENT),
        ("/proc/1/cwd/x", errno.ELOOP),
    ],
)
def test_a_mount_point_that_cannot_be_made_safely_is_refused(
    workshop: Workshop, target: str, number: int
) -> None:
    (workshop.image / "loop").symlink_to("loop")
    event = workshop.failure(workshop.request("true", mounts=[bind(workshop.image, target)]))
    assert (event["step"], event["errno"]) == (f"mount {target}", number)


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
