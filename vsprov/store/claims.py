"""Claims of ids: which block of the host's ids belongs to which instance, so that no two get the same range.

    /var/lib/vsprov.ranges/         root 0700; the dot keeps it apart from the state root of any instance
        12 -> NAME STATE-ROOT       ids 12 * BLOCK to 13 * BLOCK - 1 (`plan.ranges`)

A claim is a symbolic link: symlink(2) creates it together with its content, or fails because it exists.
Two instances therefore cannot claim one block, a crash leaves no incomplete claim, and no lock is needed.
"""

from __future__ import annotations

import os
import shlex
import stat
from collections.abc import Iterator
from contextlib import suppress

from vsprov.errors import HostError, NotPermittedError, reason
from vsprov.plan.ranges import SUBGID, SUBUID, SUBUID_USER, Entry, Ranges, blocks
from vsprov.store.disk import durable
from vsprov.store.instance import Instance

FOLDER = "/var/lib/vsprov.ranges"
SUBORDINATE = (SUBUID, SUBGID)
_TRIES = 100


def read(instance: Instance) -> Ranges:
    """The ids that servers of the instance may have. Read-only."""
    own, others = [], []
    for path, user, start, count in _subordinate():
        if user != SUBUID_USER:
            others.append(Entry(start, count, f"{user} in {path}"))
        elif path == SUBORDINATE[0]:
            own.append((start, count))
    held, claimed = set(), {}
    for block, holder in _claims():
        if _is_own(instance, holder):
            held.add(block)
        else:
            claimed[block] = holder
    return Ranges(tuple(own), tuple(others), frozenset(held), claimed, instance.first_range)


def check_state_root(instance: Instance, ranges: Ranges) -> None:
    """Raise HostError if the instance's servers are in another state root, and none in this one.

    Otherwise a forgotten `--root` would start all servers again without their files.
    """
    for holder in ranges.claimed.values():
        name, _, root = holder.partition(" ")
        if name == instance.name and not _has_servers(instance):
            raise HostError(
                f"{instance.root}: the servers of instance {name} are in the state root {root}",
                hint=f"use --root {shlex.quote(root)} (sudo does not pass on VSPROV_ROOT), or another "
                "--instance",
            )


def _has_servers(instance: Instance) -> bool:
    try:
        return bool(os.listdir(instance.servers))
    except OSError:
        return False


def claim(instance: Instance, base: int) -> bool:
    """Claim the blocks of a range; False if another instance has one of them."""
    return all(_claim(instance, block) for block in blocks(base))


def _claim(instance: Instance, block: int) -> bool:
    path = f"{FOLDER}/{block}"
    for _ in range(_TRIES):  # another instance may remove the empty directory, or its claim
        try:
            os.symlink(f"{instance.name} {instance.root}", path)
            return True
        except FileExistsError:
            holder = _holder(path)
            if holder is not None:
                return _is_own(instance, holder)
        except FileNotFoundError:
            with suppress(FileExistsError):
                os.mkdir(FOLDER, 0o700)
            _check()
        except OSError as error:
            raise durable.failed(path, "claim ids", error) from error
    raise HostError(
        f"{path}: claim ids: gave up after {_TRIES} attempts, because the directory kept changing"
    )


def release(instance: Instance) -> None:
    """Remove the claims of an instance that has no servers any more."""
    for block, holder in _claims():
        if _is_own(instance, holder):
            durable.unlink(f"{FOLDER}/{block}")
    with suppress(OSError):  # other instances have claims in it, or nobody ever had
        os.rmdir(FOLDER)


def flush() -> None:
    """Make the claims safe from power failure."""
    with suppress(FileNotFoundError):
        durable.flush_folder(FOLDER)


def gone(ranges: Ranges) -> dict[str, list[int]]:
    """{holder: blocks} of other instances whose state roots no longer exist."""
    out: dict[str, list[int]] = {}
    for block, holder in ranges.claimed.items():
        if not os.path.isdir(holder.partition(" ")[2]):
            out.setdefault(holder, []).append(block)
    return out


def _is_own(instance: Instance, holder: str) -> bool:
    """Whether a claim is the instance's own. Its state root may have been moved since."""
    name, _, root = holder.partition(" ")
    if name != instance.name or root == instance.root:
        return name == instance.name
    try:
        return os.path.samefile(f"{root}/servers", instance.servers)
    except OSError:
        return not os.path.isdir(f"{root}/servers")


def _claims() -> Iterator[tuple[int, str]]:
    """(block, holder) of all claims."""
    try:
        names = os.listdir(FOLDER)
    except FileNotFoundError:
        return
    except PermissionError as error:
        raise NotPermittedError(f"{FOLDER}: list: {reason(error)}", hint="run as root") from error
    except OSError as error:
        raise durable.failed(FOLDER, "list", error) from error
    _check()
    for name in names:
        if name.isascii() and name.isdigit() and (holder := _holder(f"{FOLDER}/{name}")) is not None:
            yield int(name), holder


def _holder(path: str) -> str | None:
    """The text of a claim; None if it was removed. Anything else in its place occupies the block as well."""
    try:
        return os.readlink(path)
    except FileNotFoundError:
        return None
    except OSError:
        return f"unknown {path}"


def _check() -> None:
    """Raise HostError if users of the host could change the claims."""
    try:
        status = os.lstat(FOLDER)
    except FileNotFoundError:
        return  # another instance has just removed it with its last claim
    if not stat.S_ISDIR(status.st_mode) or status.st_uid not in (0, os.geteuid()) or status.st_mode & 0o022:
        raise HostError(
            f"{FOLDER}: it must be a directory that only root can write to",
            hint=f"chown root {FOLDER}; chmod 0700 {FOLDER}",
        )


def _subordinate() -> Iterator[tuple[str, str, int, int]]:
    """(file, user, first id, count) of the entries of /etc/subuid and /etc/subgid."""
    for path in SUBORDINATE:
        try:
            with open(path, encoding="utf-8", errors="replace") as file:
                lines = file.read().splitlines()
        except OSError:
            continue  # most hosts have no such file, and no subordinate ids
        for line in lines:
            user, _, rest = line.partition(":")
            start, _, count = rest.partition(":")
            if start.isascii() and start.isdigit() and count.isascii() and count.isdigit():
                yield path, user, int(start), int(count)
