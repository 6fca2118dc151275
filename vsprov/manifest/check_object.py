"""What no schema can say of one object: checks of its values against each other.

A check is one function in `OBJECT_CHECKS` or `SERVER_CHECKS` that yields the problems it finds.
"""

from __future__ import annotations

import posixpath
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from vsprov.errors import Problem
from vsprov.manifest.problems import Path, dotted, problem_at, quoted
from vsprov.manifest.resolve import Item, mounts_in
from vsprov.model import objects, units
from vsprov.model.encodings import PERIOD
from vsprov.model.fields import keys
from vsprov.model.knobs import BY_PATH, KNOBS
from vsprov.model.objects import Image, Mount, Object, Quota, Server
from vsprov.model.suggest import did_you_mean
from vsprov.model.units import MAX

NAME: Path = ("metadata", "name")
# The guest's own file systems: a mount over them could undo its confinement.
KERNEL_FOLDERS = ("/proc", "/sys", "/dev")
SHARED_MEMORY = "/dev/shm"
# What is known of a server is kept in an extended attribute of its cgroup, 64 KiB at most (XATTR_SIZE_MAX).
MOST_TEXT = 32 * 1024
MOST_SUGGESTIONS = 20
LEAST_MEMORY = 256 << 10  # a shell that prints a word was killed in 192Ki and not in 256Ki, on Linux 6.18


def check(item: Item) -> Iterator[Problem]:
    """The problems of an object by itself, warnings among them."""
    if item.object is None:
        return
    for one in OBJECT_CHECKS:
        yield from one(item, item.object)
    if isinstance(item.object.spec, Server):
        for each in SERVER_CHECKS:
            yield from each(item, item.object.spec)


def bounds(item: Item, read: Object) -> Iterator[Problem]:
    """No knob above the one that bounds it. Where both come from a quota, the quota is where it is said."""
    resources = _resources(read)
    for knob in _BOUNDED if item.sound else ():
        value, bound = resources.get(knob.path), resources.get(knob.bounds)
        if value in (None, MAX) or bound in (None, MAX) or value <= bound:
            continue
        if _is_own(item, knob.path, knob.bounds):
            show = knob.kind.format
            message = f"{show(value)} is above {knob.bounds.split('.')[1]}, which is {show(bound)}"
            yield _at_knob(item, message, knob.path, knob.bounds)


def burst(item: Item, read: Object) -> Iterator[Problem]:
    """sched-bwc.rst: a burst is at most the quota, and there is none without a quota."""
    resources = _resources(read)
    value, limit = resources.get("cpu.burst"), resources.get("cpu.limit", MAX)
    if not item.sound or not value or not _is_own(item, "cpu.burst", "cpu.limit"):
        return
    if limit == MAX:
        message, hint = "a burst needs a limit that it can exceed", "set cpu.limit as well"
        yield _at_knob(item, message, "cpu.burst", "cpu.limit", hint=hint)
    elif value > limit * PERIOD // 1000:
        most = units.format_duration(limit * PERIOD // 1000)
        limited = f"{units.format_cpu(limit)} is {most} in each 100ms"
        message = f"{units.format_duration(value)} is above the limit: {limited}"
        yield _at_knob(item, message, "cpu.burst", "cpu.limit")


def swap_without_memory(item: Item, read: Object) -> Iterator[Problem]:
    resources = _resources(read)
    if "memory.swapMax" in resources and resources.get("memory.max", MAX) == MAX and item.sound:
        if _is_own(item, "memory.swapMax", "memory.max"):
            message = "without memory.max this has no effect on a host with cgroup v1"
            yield _at_knob(item, message, "memory.swapMax", hint="set memory.max as well", warning=True)


def least_memory(item: Item, read: Object) -> Iterator[Problem]:
    value = _resources(read).get("memory.max")
    if value in (None, MAX) or value >= LEAST_MEMORY or not _is_own(item, "memory.max"):
        return
    if value == 0:
        yield _at_knob(item, "nothing can run without memory", "memory.max", hint="write max for no limit")
    else:
        least = units.format_bytes(LEAST_MEMORY)
        message = f"{units.format_bytes(value)} is too little to start a program in; that takes some {least}"
        yield _at_knob(item, message, "memory.max", warning=True)


def pool_rlimits(item: Item, read: Object) -> Iterator[Problem]:
    if isinstance(read.spec, Quota) and read.spec.scope == "pool":
        for path in read.spec.resources:
            if BY_PATH[path].rlimit:
                message = "a pool cannot share this: the kernel counts it for each process"
                yield item.problem(_knob_path(item, path), message, "put it in a Quota of scope server")


def notes(item: Item, read: Object) -> Iterator[Problem]:
    for key, text in read.annotations.items():
        path: Path = ("metadata", "annotations", key)
        if key == objects.IGNORE:
            unknown = [name for name in map(str.strip, text.split(",")) if name not in BY_PATH]
            for name in unknown[:MOST_SUGGESTIONS]:
                message = f"{quoted(name)} is not a knob{did_you_mean(name, BY_PATH)}"
                yield item.problem(path, message, "write memory.high,pids.max")
        elif key == objects.REQUIRE:
            if text != "hard":
                yield item.problem(path, f"{quoted(text)} is not hard", "hard is the only word here")
        elif key.startswith("vsprov/"):
            known = (objects.IGNORE, objects.REQUIRE)
            message = f"not an annotation that vsprov knows{did_you_mean(key, known)}"
            yield item.problem(path, message, "other prefixes are yours")


def size(item: Item, read: Object) -> Iterator[Problem]:
    """What is said of an object must fit where it is kept."""
    length = _length((read.labels, read.annotations))
    if isinstance(read.spec, Server):
        paths = [(mount.target, mount.source or "") for mount in read.spec.mounts]
        init = read.spec.init
        length += _length((init.env, init.command, init.args, paths))
    if length > MOST_TEXT:
        what = "its command, env, mounts, labels and annotations"
        message = f"{what} are {length} characters, at most {MOST_TEXT}"
        yield item.problem(NAME, message, "put long texts in a file and mount it")


_BOUNDED = tuple(knob for knob in KNOBS if knob.bounds)


def _resources(read: Object) -> Mapping[str, Any]:
    return {} if isinstance(read.spec, Image) else read.spec.resources


def _knob_path(item: Item, knob: str) -> Path:
    under: Path = ("spec",) if item.address.startswith("Quota/") else ("spec", "resources")
    return (*under, *knob.split(".", 1))


def _is_own(item: Item, *knobs: str) -> bool:
    """One of the knobs is set in this document: what a quota gets wrong by itself is said of the quota."""
    return item.quota is None or any(item.origin(_knob_path(item, knob)).text == "manifest" for knob in knobs)


def _at_knob(item: Item, message: str, *knobs: str, hint: str = "", warning: bool = False) -> Problem:
    """A problem at the first of the knobs that this document sets; what a quota sets is in the hint."""
    own = [knob for knob in knobs if item.origin(_knob_path(item, knob)).text == "manifest"]
    shown = _knob_path(item, own[0] if own else knobs[0])
    if not hint and own and own[0] != knobs[0]:
        message = f"{knobs[0]}: {message}"
    if item.quota is not None and len(own) < len(knobs) and not hint:
        hint = f"the other comes from {item.quota.address}"
    return problem_at(item.document, shown, message, hint, warning=warning)


def _length(value: Any) -> int:
    if isinstance(value, str):
        return len(value)
    if isinstance(value, Mapping):
        return sum(len(key) + _length(inner) for key, inner in value.items())
    return sum(_length(inner) for inner in value)


OBJECT_CHECKS: tuple[Callable[[Item, Object], Iterator[Problem]], ...] = (
    bounds,
    burst,
    swap_without_memory,
    least_memory,
    pool_rlimits,
    notes,
    size,
)


def mount_targets(item: Item, server: Server) -> Iterator[Problem]:
    last = None
    for i, mount in enumerate(server.mounts):
        path: Path = ("spec", "mounts", i, "target")
        wrong = wrong_path(mount.target)
        inside = next((folder for folder in KERNEL_FOLDERS if is_below(mount.target, folder)), None)
        if wrong:
            yield item.problem(path, wrong)
        elif inside and not is_below(mount.target, SHARED_MEMORY):
            yield item.problem(path, f"nothing can be mounted in {inside}", f"only {SHARED_MEMORY} is free")
        if mount.target == last:
            yield _at_last_mount(item, mount.target)
        last = mount.target


def mount_kinds(item: Item, server: Server) -> Iterator[Problem]:
    for i, mount in enumerate(server.mounts):
        path: Path = ("spec", "mounts", i)
        if mount.type == "bind":
            source = mount.source
            wrong = "a bind mount needs a source" if source is None else wrong_path(source, root="")
            if wrong:
                yield item.problem((*path, "source"), wrong)
        for name, key in keys(Mount).items():
            foreign = key.only and key.only[1] != mount.type
            if foreign and getattr(mount, key.field) != key.default:
                yield item.problem((*path, name), f"a {mount.type} mount has no {name}")


def working_dir(item: Item, server: Server) -> Iterator[Problem]:
    wrong = wrong_path(server.init.working_dir or "/", root="")
    if wrong:
        yield item.problem(("spec", "init", "workingDir"), wrong)


def command(item: Item, server: Server) -> Iterator[Problem]:
    if server.init.command[:1] == ("",):
        yield item.problem(("spec", "init", "command", 0), "the program has no name")


def capabilities(item: Item, server: Server) -> Iterator[Problem]:
    change = server.security.capabilities
    for name in sorted(set(change.add) & set(change.drop)):
        yield item.problem(("spec", "security", "capabilities", "drop"), f"{name} is both added and dropped")


def wrong_path(path: str, *, root: str = "the root itself cannot be meant here") -> str:
    """Why a path is none that means the same to everyone; "" if it is one."""
    if path == "/":
        return root
    if ".." in path.split("/"):
        return f"{quoted(path)} has '..' in it"
    plain = posixpath.normpath(path).replace("//", "/")
    return f"{quoted(path)} is spelt in a roundabout way; write {plain}" if path != plain else ""


def is_below(path: str, folder: str) -> bool:
    return path == folder or path.startswith(f"{folder}/")


def _at_last_mount(item: Item, target: str) -> Problem:
    """In the text, where mounts are not sorted, the last of two equal targets is one too many."""
    where = [i for i, mount in enumerate(mounts_in(item.document)) if mount["target"] == target]
    path: Path = ("spec", "mounts", where[-1], "target")
    first = dotted((*path[:2], where[0]))
    return problem_at(item.document, path, f"{target} is already the target of {first}")


SERVER_CHECKS: tuple[Callable[[Item, Server], Iterator[Problem]], ...] = (
    mount_targets,
    mount_kinds,
    working_dir,
    command,
    capabilities,
)
