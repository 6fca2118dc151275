"""Comparing the tree of a layer with its listing."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator

from vsprov.store.disk.progress import Meter, Progress
from vsprov.store.instance import LINKING, LISTING, TREE
from vsprov.store.layers import listing
from vsprov.store.layers.listing import IN_WORDS, Item, Reader, Unreadable
from vsprov.store.trees import tree

MOST = 100  # differences listed one by one


def verify(layer: str, progress: Progress) -> list[str]:
    """The differences between the tree of a layer and its listing, in words; [] if there are none.

    Reads every file; the layer must not be deduped meanwhile. After `MOST` differences, only the number of
    further ones is added. Hard links do not matter. Raises ImageError if the listing is missing or damaged,
    or if the tree cannot be walked.
    """
    reported: list[str] = []
    more = 0
    for difference in _differences(layer, progress):
        if len(reported) < MOST:
            reported.append(difference)
        else:
            more += 1
    return [*reported, f"and {more} more differences"] if more else reported


def _differences(layer: str, progress: Progress) -> Iterator[str]:
    """Of a new or missing directory, only the directory itself is reported."""
    top, path = f"{layer}/{TREE}", f"{layer}/{LISTING}"
    meter = Meter(progress, "verify", listing.summary(path).bytes)
    reader = Reader(top, meter)
    in_flux = os.path.lexists(f"{layer}/{LINKING}")
    items = listing.read(path)
    expected = next(items, None)
    skip: set[str] = set()
    with tree.opened(top) as fd:
        for entry in tree.walk(fd, top, lambda *_: "", skip):
            while expected is not None and _is_before(expected.path, entry.path):
                yield f"{quoted(expected.path)}: is missing"
                expected = _after(items, expected)
            skip.clear()
            if expected is None or expected.path != entry.path:
                yield f"{quoted(entry.path)}: is new"
                skip.add(entry.path)
                continue
            kind = _kind(entry)
            if kind != IN_WORDS[expected.kind]:
                yield f"{quoted(entry.path)}: is {kind}, was {IN_WORDS[expected.kind]}"
                skip.add(entry.path)
                expected = _after(items, expected)
                continue
            try:
                found = reader.item(entry)
            except Unreadable as error:
                yield f"{quoted(entry.path)}: cannot be read: {error.detail}"
            else:
                for change in changes(found, expected, in_flux):
                    yield f"{quoted(entry.path)}: {change}"
            meter.add(0)
            expected = next(items, None)
    while expected is not None:
        yield f"{quoted(expected.path)}: is missing"
        expected = _after(items, expected)
    meter.report()


def _is_before(one: str, other: str) -> bool:
    """Whether the walk visits `one` first."""
    return one != other and os.fsencode(one).split(b"/") < os.fsencode(other).split(b"/")


def _after(items: Iterator[Item], gone: Item) -> Item | None:
    """The next item that is not below `gone`."""
    return next((item for item in items if not item.path.startswith(f"{gone.path}/")), None)


def _kind(entry: tree.Entry) -> str:
    if entry.kind == stat.S_IFCHR and entry.status.st_rdev != 0:
        return tree.KINDS[entry.kind]
    known = listing.KINDS.get(entry.kind)
    return IN_WORDS[known] if known else tree.KINDS[entry.kind]


def changes(found: Item, was: Item, in_flux: bool = False) -> Iterator[str]:
    """The differences between an entry and its item, in words; `in_flux` omits mtimes of directories."""
    if found.size != was.size:
        yield f"has {found.size} bytes, had {was.size}"
    elif found.content != was.content:
        link = found.kind == "l"
        yield f"points to {found.content!r}, pointed to {was.content!r}" if link else "content differs"
    if found.mode != was.mode:
        yield f"mode is {found.mode:04o}, was {was.mode:04o}"
    if (found.uid, found.gid) != (was.uid, was.gid):
        yield f"belongs to {found.uid}:{found.gid}, belonged to {was.uid}:{was.gid}"
    if found.mtime != was.mtime and not (in_flux and found.kind == "d"):
        yield f"mtime is {_seconds(found.mtime)}, was {_seconds(was.mtime)}"
    for name in sorted(found.attributes.keys() | was.attributes.keys()):
        if name not in found.attributes:
            yield f"{name} is missing"
        elif name not in was.attributes:
            yield f"{name} is new"
        elif found.attributes[name] != was.attributes[name]:
            yield f"{name} differs"


def _seconds(when: int) -> str:
    sign = "-" if when < 0 else ""
    return f"{sign}{abs(when) // 10**9}.{abs(when) % 10**9:09d}"


def quoted(path: str) -> str:
    """A path for messages; quoted if a terminal could interpret it."""
    if not path:
        return "."
    return path if path.isprintable() else repr(path)
