"""Starting servers and entering them, when the image or what runs in it is hostile."""

from __future__ import annotations

import ctypes
import fcntl
import hashlib
import os
import pty
import select
import struct
import subprocess
import sys
import termios
import threading
from pathlib import Path

import pytest

from tests import leaks
from tests.attack.conftest import Field
from tests.lab import Document, Lab, busybox_image, image, server, status, wait_until
from tests.renames import renames


def digest(path: str) -> str:
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def test_the_hosts_interpreter_cannot_be_overwritten(field: Field) -> None:
    """A01, CVE-2019-5736: a program "#!/proc/self/exe" makes the tool execute itself inside."""
    interpreter = os.path.realpath(sys.executable)
    before = digest(interpreter)
    script = "printf '#!/proc/self/exe\\n' > /x; chmod +x /x; exec 2>/dev/null; "
    script += "while :; do for p in /proc/[0-9]*/exe; do : 3>>$p; done; done"
    attacker = subprocess.Popen(
        field.lab.vsprov.command("exec", "box", "--", "/bin/sh", "-c", script),
        env=field.lab.vsprov.environment,
    )
    try:
        wait_until(lambda: (field.lab.root("box") / "x").exists())
        for _ in range(5):
            field.lab.run("box", "/x", check=False)
            field.lab.run("box", "/proc/self/exe", check=False)
    finally:
        attacker.terminate()
        attacker.wait()
    assert digest(interpreter) == before


def test_no_fd_of_the_host_is_open_in_a_server(field: Field) -> None:
    """A02, CVE-2024-21626."""
    for pid in ("1", "self"):
        targets = field.shell("weak", f"for f in /proc/{pid}/fd/*; do readlink $f; done").splitlines()
        allowed = ("/dev/null", "pipe:", "/proc/", str(field.lab.directory("weak") / "console"))
        assert [target for target in targets if not target.startswith(allowed)] == []


def test_a_working_directory_through_an_fd_is_refused(field: Field) -> None:
    """A02, CVE-2024-21626: /proc/self/fd/N leads to a folder of the host."""
    for number in (3, 5, 7, 8, 9, 12):
        done = field.lab.vsprov("exec", "-w", f"/proc/self/fd/{number}", "weak", "--", "pwd", check=False)
        assert done.returncode != 0 and done.stdout == ""


def test_no_capability_is_inheritable(field: Field) -> None:
    """A04, CVE-2022-29162: neither of the init nor of a command that joins."""
    assert status(field.lab.init("weak").pid, "CapInh") == "0000000000000000"
    assert field.shell("weak", "grep CapInh /proc/self/status").split()[1] == "0000000000000000"


@pytest.mark.parametrize(
    "user", ["0x1", "01", "+1", "1 ", "-1", "4294967295", "4294967296", "1_0", "65536", "１", ""]
)
def test_a_user_that_could_be_misread_is_refused(field: Field, user: str) -> None:
    """A05, CVE-2026-30892: `-u 1` meant root."""
    done = field.lab.vsprov("exec", f"--user={user}", "weak", "--", "id", "-u", check=False)
    assert done.returncode != 0 and done.stdout == "", done


def test_a_number_is_a_uid(field: Field) -> None:
    """A05, A06, CVE-2016-3697: even when the image calls root so."""
    assert field.lab.vsprov("exec", "--user=1", "weak", "--", "id", "-u").stdout == "1\n"
    field.shell("box", "echo 1000:x:0:0::/:/bin/sh >> /etc/passwd")
    assert field.lab.vsprov("exec", "--user=1000", "box", "--", "id", "-u").stdout == "1000\n"


def test_looking_at_a_server_executes_nothing_of_it(field: Field) -> None:
    """A07, CVE-2022-1227: podman top ran the image's nsenter."""
    names = "ps ls nsenter sh cat id hostname"
    field.shell(
        "box",
        "mkdir -p /usr/bin; cd /usr/bin; "
        f"for b in {names}; do printf '#!/bin/busybox sh\\ntouch /pwn\\n' > $b; "
        "chmod +x $b; done",
    )
    for words in (
        ("get", "servers"),
        ("get", "server", "box", "-o", "json"),
        ("ps", "box"),
        ("logs", "box"),
        ("doctor",),
    ):
        field.lab.vsprov(*words, check=False)
    assert not (field.lab.root("box") / "pwn").exists()


def test_a_joining_command_shows_nothing_of_the_host(field: Field) -> None:
    """A09, CVE-2016-9962: its fds and memory, before it has become the server's."""
    script = (
        "for i in $(seq 60); do ls -l /proc/[0-9]*/fd /proc/[0-9]*/cwd /proc/[0-9]*/root 2>/dev/null; done"
    )
    watcher = subprocess.Popen(
        field.lab.vsprov.command("exec", "victim", "--", "/bin/sh", "-c", script),
        stdout=subprocess.PIPE, text=True, env=field.lab.vsprov.environment,
    )  # fmt: skip
    for _ in range(8):
        field.lab.run("victim", "true")
    seen, _ = watcher.communicate()
    for word in ("/work", "/root/", "python", "/etc/vsprov", "/sys/fs/cgroup/"):
        assert word not in seen


def hostile(folder: Path, name: str = "evil") -> tuple[Path, Document]:
    top = busybox_image(folder / "image")
    return top, image(name, directory=str(top))


def test_links_in_the_images_dev_are_not_followed(lab: Lab, tmp_path: Path) -> None:
    """A10, A11, CVE-2025-52565, CVE-2025-31133: /dev/console and /dev/null that are links to elsewhere."""
    top, evil = hostile(tmp_path)
    probe = tmp_path / "probe"
    (top / "dev/console").symlink_to(probe)
    (top / "dev/null").symlink_to("/proc/sys/kernel/core_pattern")
    (top / "dev/pts").symlink_to("/etc")
    pattern = Path("/proc/sys/kernel/core_pattern").read_text()
    lab.converge(evil, server("a", image="evil"))
    assert not probe.exists()
    null = (lab.root("a") / "dev/null").stat()
    assert (os.major(null.st_rdev), os.minor(null.st_rdev)) == (1, 3)
    assert lab.shell("a", "cat /proc/keys /proc/kcore /proc/timer_list 2>/dev/null | wc -c").strip() == "0"
    assert Path("/proc/sys/kernel/core_pattern").read_text() == pattern


@pytest.mark.parametrize("name", ["proc", "sys", "dev"])
@pytest.mark.parametrize("target", ["/srv", "/", "../../../..", "/proc/self/fd/3"])
def test_a_system_directory_that_is_a_link_is_refused(
    lab: Lab, tmp_path: Path, name: str, target: str
) -> None:
    """A12, CVE-2019-19921: mounts redirected by the image."""
    top, evil = hostile(tmp_path)
    (top / name).rmdir()
    (top / name).symlink_to(target)
    said = lab.refused(evil, server("a", image="evil"))
    assert f"mount /{name}" in said
    assert not lab.group("a").exists()


@pytest.mark.parametrize(
    "target",
    ["/proc", "/proc/self", "/sys", "/sys/fs/cgroup", "/dev", "/dev/pts", "/", "/..", "/srv/../proc"],
)
def test_no_mount_over_what_confines_the_server(lab: Lab, target: str) -> None:
    """A12, D21."""
    said = lab.refused(image(), server("a", mounts=[{"type": "tmpfs", "target": target}]), code=65)
    assert "target" in said


def test_a_mount_point_that_is_swapped_for_a_link_leads_nowhere_else(lab: Lab, tmp_path: Path) -> None:
    """A13, CVE-2021-30465: a shared folder in which another server exchanges a directory and a link to /."""
    shared = tmp_path / "shared"
    (shared / "x/y").mkdir(parents=True)
    (shared / "link").symlink_to("/")
    libc = ctypes.CDLL(None, use_errno=True)
    over = threading.Event()

    def swap() -> None:
        while not over.is_set():
            libc.renameat2(-100, bytes(shared / "x"), -100, bytes(shared / "link"), 2)

    mounts = [{"type": "bind", "source": str(shared), "target": "/v"}, {"type": "tmpfs", "target": "/v/x/y"}]
    before = leaks.mounts_of_host()
    thread = threading.Thread(target=swap)
    thread.start()
    try:
        for number in range(8):
            lab.apply(image(), server("a", mounts=mounts, init={"env": {"N": str(number)}}), check=False)
            wait_until(lambda: leaks.mounts_of_host() == before)
            for pid in lab.processes("a"):
                points = [line.split()[4] for line in Path(f"/proc/{pid}/mountinfo").read_text().splitlines()]
                assert [point for point in points if point.endswith("/y")] in (
                    ["/y"],
                    ["/v/x/y"],
                    ["/v/link/y"],
                )
    finally:
        over.set()
        thread.join()
    assert not Path("/y").exists()


def test_a_server_cannot_lead_its_mounts_over_dev_on_its_second_start(lab: Lab, tmp_path: Path) -> None:
    """A15, CVE-2025-31133, CVE-2025-52881: masks and standard input would come from a /dev of its own."""
    source = tmp_path / "source"
    source.mkdir(mode=0o777)
    (source / "null").write_text("not the device\n")
    mounts = [{"type": "bind", "source": str(source), "target": "/app/data"}]
    lab.apply(image(), server("a", mounts=mounts))
    lab.shell("a", "mv /app /app.old; ln -s / /app; ln -s dev /data")
    done = lab.vsprov("restart", "a", check=False)
    assert done.returncode == 1
    assert "Server/a: start: mount /app/data: it lies on another file system of the server" in done.stderr
    assert lab.processes("a") == []


def test_missing_mount_points_are_made_inside_the_root(lab: Lab, tmp_path: Path) -> None:
    """A14, CVE-2024-45310: mkdir -p through a link of the image."""
    top, evil = hostile(tmp_path)
    (top / "srv/x").symlink_to("/")
    (top / "srv/up").symlink_to("../../../../../..")
    for link in ("x", "up"):
        target = f"/srv/{link}/vt-made-by-{link}"
        lab.apply(evil, server("a", image="evil", mounts=[{"type": "tmpfs", "target": target}]))
        assert not Path(f"/vt-made-by-{link}").exists()
        assert (lab.root("a") / f"vt-made-by-{link}").is_dir()


def test_renames_on_the_host_disturb_no_mount_below_a_link_upwards(lab: Lab, tmp_path: Path) -> None:
    """openat2(2) fails with EAGAIN when a rename anywhere meets a ".." of the path."""
    top, evil = hostile(tmp_path)
    (top / "srv/up").symlink_to("/".join([".."] * 1000))
    mounts = [{"type": "tmpfs", "target": f"/srv/up/made-{n}"} for n in range(20)]
    with renames(tmp_path):
        lab.apply(evil, server("a", image="evil", mounts=mounts))
    assert sum(path.name.startswith("made-") for path in lab.root("a").iterdir()) == 20


def test_what_is_typed_for_a_server_does_not_reach_our_terminal(field: Field) -> None:
    """A16, CVE-2017-5226: TIOCSTI puts words into the terminal it is used on, which must not be ours."""
    master, slave = pty.openpty()
    script = "import fcntl\nfor c in b'echo pwned\\n':\n"
    script += " try: fcntl.ioctl(0, 0x5412, bytes([c]))\n except OSError: pass\nprint('tried')"
    process = subprocess.Popen(
        field.lab.vsprov.command("exec", "-t", "weak", "--", "python3", "-c", script),
        stdin=slave, stdout=slave, stderr=slave, env=field.lab.vsprov.environment, start_new_session=True,
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
    )  # fmt: skip
    shown = b""
    while process.poll() is None or select.select([master], [], [], 0)[0]:
        if select.select([master], [], [], 0.05)[0]:
            shown += os.read(master, 4096)
    waiting = struct.unpack("i", fcntl.ioctl(slave, termios.FIONREAD, b"\0" * 4))[0]
    os.close(master)
    os.close(slave)
    assert b"tried" in shown and waiting == 0


def test_a_proc_the_server_has_replaced_does_not_mislead_us(field: Field) -> None:
    """A18, CVE-2015-1334: the confinement of a command that joins comes from the host's view."""
    said = field.shell("strong", "mount -t tmpfs x /proc && mkdir -p /proc/self && echo replaced")
    assert said == "replaced"
    try:
        assert field.lab.run("strong", "echo", "joined").stdout == "joined\n"
    finally:
        field.shell("strong", "umount /proc")


def test_a_command_that_joins_is_under_the_servers_limits(lab: Lab) -> None:
    """A19: its processes count with the server's."""
    lab.apply(image(), server("a", resources={"pids": {"max": 3}}))
    script = "import os, time\nn = 0\ntry:\n while n < 9:\n  if not os.fork():\n"
    script += "   os.closerange(0, 3)\n   time.sleep(1e6)\n  n += 1\nexcept OSError: pass\nprint(n)"
    assert lab.run("a", "python3", "-c", script).stdout == "1\n"


@pytest.mark.parametrize("name", ["weak", "strong"])
def test_the_classic_escapes_from_chroot_end_in_the_servers_root(field: Field, name: str) -> None:
    """A20: Linux-VServer's escaperoot; an fd on the old root, chroot, and up a hundred times."""
    script = (
        "import os\nos.makedirs('/d', exist_ok=True)\nf = os.open('/', 0)\nos.chroot('/d')\nos.fchdir(f)\n"
        "for _ in range(100): os.chdir('..')\nos.chroot('.')\n"
        f"for p in ({str(field.lab.vsprov.root)!r}, '/etc/shadow', '/d'): print(os.path.exists(p), end=' ')"
    )
    assert field.python(name, script) == "False False True"


def test_a_name_service_of_the_image_that_hangs_does_not_hang_us(lab: Lab, tmp_path: Path) -> None:
    """C18, CVE-2024-9676: a FIFO as /etc/passwd."""
    top, _ = hostile(tmp_path)
    (top / "etc/passwd").unlink()
    lab.apply(image("evil", directory=str(top)), server("a", image="evil"))
    lab.run("a", "/bin/mkfifo", "/etc/passwd")
    done = lab.vsprov("exec", "--user=app", "a", "--", "true", check=False)
    assert done.returncode != 0
    assert lab.run("a", "/bin/true").returncode == 0


def test_a_console_log_that_is_a_link_is_refused(lab: Lab, tmp_path: Path) -> None:
    """C23, CVE-2026-48750."""
    lab.apply(image(), server("a", state="Stopped"))
    log, console = lab.directory("a") / "console.log", lab.directory("a") / "console"
    probe = tmp_path / "probe"
    console.symlink_to(probe)
    said = lab.refused(image(), server("a"))
    assert "console" in said and not probe.exists()
    console.unlink()
    log.symlink_to(probe)
    said = lab.apply(image(), server("a", "sh", "-c", "echo here; exec sleep infinity")).stderr
    assert "Server/a: write its console log: Too many levels of symbolic links" in said
    assert not probe.exists()
    log.unlink()


def test_a_read_only_bind_is_read_only_all_the_way_down(lab: Lab, tmp_path: Path) -> None:
    """C24: plain MS_RDONLY leaves what is mounted below writable."""
    (tmp_path / "top/sub").mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "none", str(tmp_path / "top/sub")], check=True)
    try:
        mount = {
            "type": "bind",
            "source": str(tmp_path / "top"),
            "target": "/ro",
            "readOnly": True,
            "idMap": False,
        }
        lab.apply(image(), server("a", mounts=[mount]))
        for place in ("ro", "ro/sub"):
            with pytest.raises(OSError, match="Read-only file system"):
                (lab.root("a") / place / "new").write_text("")
    finally:
        lab.vsprov("destroy", "--all", "-y")
        subprocess.run(["umount", str(tmp_path / "top/sub")], check=True)


def test_no_mount_of_a_server_is_shared_with_the_host(field: Field) -> None:
    """C25: a mount made inside stays inside."""
    for name in ("weak", "strong", "box"):
        lines = Path(f"/proc/{field.lab.init(name).pid}/mountinfo").read_text().splitlines()
        assert not [line for line in lines if "shared:" in line or "master:" in line]


def test_servers_have_no_upper_layer_in_common(field: Field) -> None:
    """C19."""
    script = "echo mine > /etc/only-here"
    field.shell("weak", script)
    assert not (field.lab.root("victim") / "etc/only-here").exists()
    assert not (field.lab.root("strong") / "etc/only-here").exists()


def test_a_setuid_file_a_server_made_is_out_of_reach_on_the_host(field: Field) -> None:
    """C05, CVE-2021-41091: the upper layers lie below a folder only root may enter."""
    field.shell("box", "cp /bin/busybox /srv/suid; chmod 4755 /srv/suid")
    found = field.lab.directory("box") / "upper/srv/suid"
    assert found.exists()
    command = ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups", "sh", "-c", str(found)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode != 0 and "Permission denied" in done.stderr, done


def test_commands_that_join_at_the_same_time_all_run(field: Field) -> None:
    """Each leaves the group they share only when no other needs it."""
    command = field.lab.vsprov.command("exec", "weak", "--", "echo", "ran")
    started = [
        subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=field.lab.vsprov.environment,
        )
        for _ in range(8)
    ]
    assert [process.communicate() for process in started] == [("ran\n", "")] * 8
