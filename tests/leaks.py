"""What an instance of vsprov has on this machine, seen without the help of vsprov.

`found` reads only the kernel and the disk, so it can say that nothing is left; `remove` is the axe for the
end of a test that failed. Both go by the instance's name, which is random, so they never see what others
made.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from tests import world
from tests.features import hierarchies

PREFIX = f"vt-{os.getpid()}-"  # how the names of the instances begin that this process makes
OWN = {f"/{PREFIX}"}  # what is in every path of this process's tests; pytest's folder is added
_OF_TESTS = re.compile("/vt-|/pytest-of-")


@dataclass(frozen=True, slots=True)
class Mount:
    """One line of /proc/PID/mountinfo, its octal escapes undone."""

    point: str
    kind: str
    text: str


def mounts() -> list[Mount]:
    """Every mount of this process's namespace, in the order of mounting. proc_pid_mountinfo(5)."""
    found = []
    for line in Path("/proc/self/mountinfo").read_bytes().splitlines():
        text = line.decode("utf-8", "surrogateescape")
        fields = text.split()
        text = _unescape(text)
        found.append(Mount(_unescape(fields[4]), fields[fields.index("-") + 1], text))
    return found


def mounts_of_host() -> list[str]:
    """The lines of this process's mountinfo, but for mounts of tests that other processes run meanwhile."""
    lines = Path("/proc/self/mountinfo").read_text(errors="surrogateescape").splitlines()
    return [line for line in lines if not _OF_TESTS.search(line) or any(own in line for own in OWN)]


def _unescape(text: str) -> str:
    for code, sign in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
        text = text.replace(code, sign)
    return text


def groups(name: str) -> list[Path]:
    """Every cgroup directory called `name` or below one, in every hierarchy, deepest first."""
    found: list[Path] = []
    for mount in sorted(set(hierarchies().values())):
        for folder, _, _ in os.walk(mount):
            if f"/{name}/" in f"{folder}/":
                found.append(Path(folder))
    return sorted(found, key=lambda path: len(path.parts), reverse=True)


def processes(name: str) -> dict[int, str]:
    """Pid and command of each living process in the groups of `name`, or with the name in its words."""
    found = {}
    for entry in os.listdir("/proc"):
        if not entry.isdigit() or int(entry) == os.getpid():
            continue
        try:
            words = _read(f"/proc/{entry}/cmdline")
            told = words + _read(f"/proc/{entry}/cgroup")
            if words:  # a thread of the kernel has neither
                told += _read(f"/proc/{entry}/environ")
            if name.encode() in told:
                state = _read(f"/proc/{entry}/stat").rpartition(b")")[2].split()[0]
                if state not in (b"Z", b"X"):
                    found[int(entry)] = words.replace(b"\0", b" ").decode(errors="replace").strip()
        except OSError:
            continue  # it ended while being looked at
    return found


def _read(path: str) -> bytes:
    """The content of a file of /proc; there are a thousand of them to read, many times."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        found = b""
        while part := os.read(fd, 1 << 16):
            found += part
        return found
    finally:
        os.close(fd)


def links(name: str, network: int | None = None) -> list[str]:
    """Every network link whose alias carries the mark of instance `name`, in an open network namespace or
    this one.
    """
    if network is not None:
        return sorted(
            link
            for link, details in world.links(network).items()
            if details.get("ifalias", "").startswith(f"vsprov:{name}:")
        )
    found = []
    for link in Path("/sys/class/net").iterdir():
        try:
            alias = (link / "ifalias").read_text()
        except OSError:
            continue  # a bond's control file, or a link that has just gone
        if alias.startswith(f"vsprov:{name}:") or alias.strip() == f"vsprov:{name}":
            found.append(link.name)
    return sorted(found)


def tables(name: str, network: int | None = None) -> list[tuple[str, str]]:
    """Family and name of each nft table that carries the instance's name."""
    if shutil.which("nft") is None or os.geteuid() != 0:
        return []
    done = subprocess.run(
        _within(network, "nft", "list", "tables"), capture_output=True, text=True, check=True
    )
    spellings = (name, name.replace("-", "_"))
    found = [line.split() for line in done.stdout.splitlines()]
    return [(words[1], words[2]) for words in found if any(spelling in words[2] for spelling in spellings)]


def _within(network: int | None, *command: str) -> list[str]:
    return [*command] if network is None else world.within(network, *command)


def loops(root: Path) -> list[str]:
    """Every loop device whose file is, or was, below `root`."""
    found = []
    for device in Path("/sys/block").glob("loop*/loop/backing_file"):
        try:
            if device.read_text().startswith(f"{root}/"):
                found.append(f"/dev/{device.parent.parent.name}")
        except OSError as error:  # another test has just released it
            if error.errno not in (errno.ENOENT, errno.ENODEV, errno.ENXIO):
                raise
    return found


def files(name: str, root: Path) -> Iterator[Path]:
    """What the instance has on disk: its places in the system's folders, and whatever lies below `root`.

    Never looks into what is mounted there.
    """
    for parent in ("/run", "/run/netns", "/run/lock", "/var/lib", "/var/log", "/var/cache", "/etc", "/tmp"):
        if os.path.isdir(parent):
            yield from (Path(parent, each) for each in os.listdir(parent) if each.startswith(name))
    mounted = {each.point for each in mounts()}
    for folder, below, names in os.walk(root):
        below[:] = [each for each in below if f"{folder}/{each}" not in mounted]
        yield from (Path(folder, each) for each in (*below, *names))


def claims(name: str) -> list[Path]:
    """The blocks of ids that instance `name` has claimed."""
    folder = Path("/var/lib/vsprov.ranges")
    try:
        links = list(folder.iterdir())
    except FileNotFoundError:
        return []
    found = []
    for link in links:
        try:
            if os.readlink(link).partition(" ")[0] == name:
                found.append(link)
        except FileNotFoundError:
            continue  # another test has just released it
    return found


def found(name: str, root: Path, network: int | None = None) -> list[str]:
    """A line for each thing that instance `name`, with its files in `root`, has on this machine now, and in
    an open network namespace.
    """
    return [
        *(f"process {pid}: {command}" for pid, command in processes(name).items()),
        *(f"mount {each.text}" for each in mounts() if name in each.text),
        *(f"cgroup {path}" for path in groups(name)),
        *(f"link {link}" for link in links(name, network)),
        *(f"nft table {family} {table}" for family, table in tables(name, network)),
        *(f"loop device {device}" for device in loops(root)),
        *(f"on disk {path}" for path in files(name, root)),
        *(f"claim of ids {path}" for path in claims(name)),
    ]


def remove(name: str, root: Path, network: int | None = None) -> None:
    """Take away whatever `found` shows, by force and in the order in which one thing holds another."""
    for pid in processes(name):
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
    for mount in reversed([each for each in mounts() if name in each.text]):
        subprocess.run(["umount", "--lazy", mount.point], capture_output=True)
    for device in loops(root):
        subprocess.run(["losetup", "--detach", device], capture_output=True)
    for family, table in tables(name, network):
        subprocess.run(_within(network, "nft", "delete", "table", family, table), capture_output=True)
    for link in links(name, network):
        subprocess.run(_within(network, "ip", "link", "delete", link), capture_output=True)
    for group in groups(name):
        try:
            group.rmdir()
        except OSError:
            continue  # still populated: what is left is told by `found`
    if any(name in each.text for each in mounts()):
        return  # it may be a bind of the host's own files: better to leave rubbish than to delete through it
    for claim in claims(name):
        claim.unlink(missing_ok=True)
    for path in [root, *files(name, root)]:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def descriptors(pid: int | str = "self") -> dict[int, str]:
    """The open files of a process, this one by default: number and what /proc shows behind it."""
    found = {}
    for entry in os.listdir(f"/proc/{pid}/fd"):
        with suppress(FileNotFoundError):  # closed since it was listed
            found[int(entry)] = os.readlink(f"/proc/{pid}/fd/{entry}")
    return found


def children() -> set[int]:
    """The children of this process, zombies included; one may be what forks the command lines of tests."""
    return {
        int(word)
        for thread in Path("/proc/self/task").iterdir()
        for word in (thread / "children").read_text().split()
    }
