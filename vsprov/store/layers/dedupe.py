"""Hard-linking equal files of different layers, as vhashify of Linux-VServer did: one copy on disk, and one
in memory for all servers that use it.

`find` reads listings only. `apply` compares the contents, and changes only inode numbers and link counts.
"""

from __future__ import annotations

import os
import stat
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from typing import NamedTuple

from msgspec import Struct

from vsprov.errors import ImageError
from vsprov.kernel.paths import GONE, open_beneath
from vsprov.store.disk.progress import Meter, Progress
from vsprov.store.instance import LISTING, TREE
from vsprov.store.layers import linking, listing
from vsprov.store.layers.linking import Group, Name
from vsprov.store.layers.listing import Item
from vsprov.store.trees import tree

# The limit of ext4, the lowest of the supported file systems; a file with as many links is left alone.
MOST_LINKS = 65_000
# Below these, programs check the link count: Debian's cron ignores crontabs with a second link, and mail
# programs reject such mailboxes. There is little to save, and servers change these files.
APART = ("etc/", "home/", "root/", "var/mail/", "var/spool/")


class Plan(Struct, frozen=True):
    """What `apply` would do: link `files` names and free `bytes` on disk.

    `layers` are the layers concerned, `left_out` messages about those that were not examined.
    """

    layers: Mapping[str, str]
    groups: tuple[Group, ...]
    files: int
    bytes: int
    left_out: tuple[str, ...] = ()


class Done(Struct, frozen=True):
    """What `apply` has done; `failures` are messages about the files left alone."""

    files: int
    bytes: int
    failures: tuple[str, ...]


# ---- finding


class _Inode(NamedTuple):
    status: os.stat_result
    names: list[Name]


def find(layers: Mapping[str, str], images: Iterable[Sequence[str]] = ()) -> Plan:
    """The files of `layers`, {key: path}, that could become one inode. Changes nothing.

    Their content, size, mode, owner, mtime and extended attributes are equal by the listings, and they are on
    one file system. Paths may differ. Two files that one server may see remain two: those of one layer, and
    of the layers of one of `images`. Missing files are skipped; `verify` reports them.
    """
    views: defaultdict[str, set[str]] = defaultdict(set)
    for number, keys in enumerate(images):
        for key in keys:
            views[key].add(f"image {number}")
    seen = {key: frozenset((key, *views[key])) for key in layers}
    same, left_out = _alike(layers)
    used = {name.layer for members in same for name, _ in members}
    groups: list[Group] = []
    saved = 0
    with ExitStack() as stack:
        tops = {key: stack.enter_context(tree.opened(f"{layers[key]}/{TREE}")) for key in sorted(used)}
        for members in same:
            for inodes in _inodes(tops, [name for name, _ in members]):
                for group, size in _groups(inodes, members[0][1], seen):
                    groups.append(group)
                    saved += size
    files = sum(len(group.others) for group in groups)
    changing = {name.layer for group in groups for name in (group.keep, *group.others)}
    return Plan({key: layers[key] for key in changing}, tuple(groups), files, saved, tuple(left_out))


def _alike(layers: Mapping[str, str]) -> tuple[list[list[tuple[Name, Item]]], list[str]]:
    """Groups of files that are equal by the listings; and messages about listings that are not readable."""
    same: defaultdict[tuple[object, ...], list[tuple[Name, Item]]] = defaultdict(list)
    left_out = []
    for key, path in sorted(layers.items()):
        try:
            for item in listing.read(f"{path}/{LISTING}"):
                if item.kind == "f" and item.size and not item.path.startswith(APART):
                    identity = (*item[2:-1], *sorted(item.attributes.items()))
                    same[identity].append((Name(key, item.path), item))
        except ImageError as error:
            left_out.append(str(error))
    return [members for members in same.values() if len(members) > 1], left_out


def _inodes(tops: Mapping[str, int], names: Sequence[Name]) -> Iterator[list[_Inode]]:
    """The inodes of files, by file system, those with the most links first, then the oldest."""
    found: dict[int, dict[int, _Inode]] = {}
    for name in names:
        try:
            fd = open_beneath(tops[name.layer], name.path, os.O_PATH)
        except OSError as error:
            if error.errno not in GONE:
                raise
            continue
        status = os.fstat(fd)
        os.close(fd)
        if stat.S_ISREG(status.st_mode):
            inodes = found.setdefault(status.st_dev, {})
            inodes.setdefault(status.st_ino, _Inode(status, [])).names.append(name)
    for inodes in found.values():
        yield sorted(inodes.values(), key=lambda inode: (-inode.status.st_nlink, inode.status.st_ctime_ns))


def _groups(
    inodes: list[_Inode], item: Item, seen: Mapping[str, frozenset[str]]
) -> Iterator[tuple[Group, int]]:
    """Groups of names to link to one inode, with the bytes saved; `seen` are the views that contain a layer.

    Two files that one server may see are not linked: cp(1) refuses to copy a file to itself, and rename(2)
    does nothing. No inode gets more links than the limit.
    """
    left = [inode for inode in inodes if inode.status.st_nlink < MOST_LINKS]
    while len(left) > 1:
        keep, *rest = left
        room = MOST_LINKS - keep.status.st_nlink
        views = {view for name in keep.names for view in seen[name.layer]}
        path = keep.names[0].path
        left, others, saved = [], [], 0
        for inode in sorted(rest, key=lambda inode: (inode.names[0].path != path, inode.names[0])):
            own = {view for name in inode.names for view in seen[name.layer]}
            if len(inode.names) > room or own & views:
                left.append(inode)
                continue
            room -= len(inode.names)
            views |= own
            others += inode.names
            # A name in a layer that is not examined keeps the old inode.
            saved += inode.status.st_blocks * 512 if inode.status.st_nlink == len(inode.names) else 0
        if others:
            yield Group(item, keep.names[0], tuple(others)), saved


# ---- applying


class _Stopped(Exception):
    """The caller of `apply` was interrupted."""


def apply(plan: Plan, progress: Progress, notify: Callable[[str], None]) -> Done:
    """Link the files of each group of `plan`. If interrupted, every tree still matches its listing.

    Files that differ from their listing are left alone and reported. The work is done in a thread of the
    lowest CPU and I/O priority, which calls `progress` with the bytes compared, and `notify` with messages.
    The caller makes sure that no layers are added or removed meanwhile. Servers may run on them: their
    overlays must have index=off, otherwise a write to one file would appear in all of the same inode. An
    overlay keeps using an inode that it has cached; the space of that one is freed when the server restarts
    or the cache is dropped.
    """
    import threading  # slow to import, and rarely needed
    from concurrent.futures import ThreadPoolExecutor

    stop = threading.Event()

    def paced(what: str, done: int, total: int) -> None:
        if stop.is_set():
            raise _Stopped
        progress(what, done, total)

    def work() -> Done:
        linking.lower_priority()
        return _apply(plan, paced, notify)

    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(work)
        try:
            return running.result()
        except BaseException:
            stop.set()  # the executor then waits for the thread
            raise


def _apply(plan: Plan, progress: Progress, notify: Callable[[str], None]) -> Done:
    total = sum(group.item.size * len(group.others) for group in plan.groups)
    changed = {name.layer for group in plan.groups for name in group.others}
    for path in plan.layers.values():
        linking.repair(path)
    marked: list[str] = []
    with ExitStack() as stack:
        tops = {key: stack.enter_context(tree.opened(f"{path}/{TREE}")) for key, path in plan.layers.items()}
        meter = Meter(progress, "dedupe", total)
        work = linking.Linking(plan.layers, tops, meter, notify)
        try:
            for key in sorted(changed):
                marked.append(plan.layers[key])
                linking.mark(plan.layers[key])
            for group in plan.groups:
                work.unite(group)
            meter.report()
        except BaseException:
            for path in marked:
                linking.repair(path)
            raise
    linking.unmark(marked)
    return Done(work.files, work.bytes, tuple(work.failures))
