"""Checks of single objects that no schema can express, such as values that depend on each other.

Each check is a function in `OBJECT_CHECKS` or `SERVER_CHECKS` that yields the problems it finds.
"""

from __future__ import annotations

import posixpath
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from vsprov.errors import Problem
from vsprov.manifest.problems import dotted, problem_at, quoted
from vsprov.manifest.resolve import Item, mounts_in
from vsprov.model import objects
from vsprov.model.fields import Path, keys
from vsprov.model.kinds.quota import Quota
from vsprov.model.kinds.server import Mount, Server
from vsprov.model.limits.encodings import PERIOD
from vsprov.model.limits.knobs import BY_PATH, KNOBS
from vsprov.model.objects import Object
from vsprov.model.suggest import did_you_mean
from vsprov.model.values import units
from vsprov.model.values.names import HOST_CAPABILITIES
from vsprov.model.values.units import MAX

NAME: Path = ("metadata", "name")
# File systems of the guest itself: a mount over them could weaken its confinement.
KERNEL_DIRECTORIES = ("/proc", "/sys", "/dev")
SHARED_MEMORY = "/dev/shm"
# The record of a server is stored in an extended attribute of its cgroup of up to 64 KiB (XATTR_SIZE_MAX).
MOST_TEXT = 32 * 1024
MOST_SUGGESTIONS = 20
LEAST_MEMORY = 256 << 10  # measured on Linux 6.18: a shell was killed with 192Ki, and ran with 256Ki


def check(item: Item) -> Iterator[Problem]:
    """The problems and warnings of a single object."""
    if item.object is None:
        return
    for one in OBJECT_CHECKS:
        yield from one(item, item.object)
    if isinstance(item.object.spec, Server):
        for each in SERVER_CHECKS:
            yield from each(item, item.object.spec)


def bounds(item: Item, read: Object) -> Iterator[Problem]:
    """Knobs that exceed the knob that bounds them. If a quota sets both, it is reported at the quota."""
    resources = _resources(read)
    for knob in _BOUNDED if item.sound else ():
        value, bound = resources.get(knob.path), resources.get(knob.bounds)
        if value in (None, MAX) or bound in (None, MAX) or value <= bound:
            continue
        if _is_own(item, knob.path, knob.bounds):
            show = knob.kind.format
            message = f"{show(value)} exceeds {knob.bounds.split('.')[1]} ({show(bound)})"
            yield _at_knob(item, message, knob.path, knob.bounds)


def burst(item: Item, read: Object) -> Iterator[Problem]:
    """sched-bwc.rst: the burst cannot exceed the quota, and requires one."""
    resources = _resources(read)
    value, limit = resources.get("cpu.burst"), resources.get("cpu.limit", MAX)
    if not item.sound or not value or not _is_own(item, "cpu.burst", "cpu.limit"):
        return
    if limit == MAX:
        message, hint = "a burst requires a limit", "set cpu.limit too"
        yield _at_knob(item, message, "cpu.burst", "cpu.limit", hint=hint)
    elif value > limit * PERIOD // 1000:
        most = units.format_duration(limit * PERIOD // 1000)
        limited = f"{units.format_cpu(limit)} is {most} per 100ms"
        message = f"{units.format_duration(value)} exceeds the limit: {limited}"
        yield _at_knob(item, message, "cpu.burst", "cpu.limit")


def swap_without_memory(item: Item, read: Object) -> Iterator[Problem]:
    """memory.swapMax without memory.max, which cgroup v1 cannot express."""
    resources = _resources(read)
    if "memory.swapMax" in resources and resources.get("memory.max", MAX) == MAX and item.sound:
        if _is_own(item, "memory.swapMax", "memory.max"):
            message = "has no effect without memory.max on a host with cgroup v1"
            yield _at_knob(item, message, "memory.swapMax", hint="set memory.max too", warning=True)


def least_memory(item: Item, read: Object) -> Iterator[Problem]:
    """Memory limits with which no program can start."""
    value = _resources(read).get("memory.max")
    if value in (None, MAX) or value >= LEAST_MEMORY or not _is_own(item, "memory.max"):
        return
    if value == 0:
        yield _at_knob(item, "a server needs memory", "memory.max", hint="write max for no limit")
    else:
        least = units.format_bytes(LEAST_MEMORY)
        message = f"{units.format_bytes(value)} is too little to start a program; about {least} is needed"
        yield _at_knob(item, message, "memory.max", warning=True)


def one_cpu(item: Item, read: Object) -> Iterator[Problem]:
    """`cpus: 1`, which pins a server to CPU number 1, and in Compose files is an amount of time."""
    given: Any = item.document.value
    for part in _knob_path(item, "cpu.cpus"):
        given = given.get(part) if isinstance(given, dict) else None
    if type(given) is int:
        message = f"{given} is the number of a CPU, not an amount of time"
        hint = f'write cpus: "{given}" to use only CPU {given}; limit: {given} limits the time'
        yield _at_knob(item, message, "cpu.cpus", hint=hint, warning=True)


def pool_rlimits(item: Item, read: Object) -> Iterator[Problem]:
    """Process limits in a pool."""
    if isinstance(read.spec, Quota) and read.spec.scope == "pool":
        for path in read.spec.resources:
            if BY_PATH[path].rlimit:
                message = "a pool cannot share this limit: the kernel applies it to each process"
                yield item.problem(_knob_path(item, path), message, "use a Quota with scope server")


def notes(item: Item, read: Object) -> Iterator[Problem]:
    """Unknown annotations of vsprov, and unknown values of them."""
    for key, text in read.annotations.items():
        path: Path = ("metadata", "annotations", key)
        if key == objects.IGNORE:
            unknown = [name for name in map(str.strip, text.split(",")) if name not in BY_PATH]
            for name in unknown[:MOST_SUGGESTIONS]:
                message = f"unknown knob {quoted(name)}{did_you_mean(name, BY_PATH)}"
                yield item.problem(path, message, "write memory.high,pids.max")
        elif key == objects.REQUIRE:
            if text != "hard":
                yield item.problem(path, f"unsupported value {quoted(text)}", "set hard, or omit it")
        elif key.startswith("vsprov/"):
            known = (objects.IGNORE, objects.REQUIRE)
            message = f"unknown annotation{did_you_mean(key, known)}"
            yield item.problem(path, message, "use another prefix for your own annotations")


def size(item: Item, read: Object) -> Iterator[Problem]:
    """Texts that do not fit in the record of a server."""
    length = _length((read.labels, read.annotations))
    if isinstance(read.spec, Server):
        paths = [(mount.target, mount.source or "") for mount in read.spec.mounts]
        init = read.spec.init
        length += _length((init.env, init.command, init.args, paths))
    if length > MOST_TEXT:
        what = "command, env, mounts, labels and annotations"
        message = f"{what} have {length} characters in total, at most {MOST_TEXT}"
        yield item.problem(NAME, message, "move long texts to a file and mount it")


_BOUNDED = tuple(knob for knob in KNOBS if knob.bounds)


def _resources(read: Object) -> Mapping[str, Any]:
    return read.spec.resources if isinstance(read.spec, Quota | Server) else {}


def _knob_path(item: Item, knob: str) -> Path:
    under: Path = ("spec",) if item.address.startswith("Quota/") else ("spec", "resources")
    return (*under, *knob.split(".", 1))


def _is_own(item: Item, *knobs: str) -> bool:
    """Whether this document sets one of the knobs; errors of a quota alone are reported at the quota."""
    return item.quota is None or any(item.origin(_knob_path(item, knob)).text == "manifest" for knob in knobs)


def _at_knob(item: Item, message: str, *knobs: str, hint: str = "", warning: bool = False) -> Problem:
    """A problem at the first of the knobs that this document sets; the hint names the quota of others."""
    own = [knob for knob in knobs if item.origin(_knob_path(item, knob)).text == "manifest"]
    shown = _knob_path(item, own[0] if own else knobs[0])
    if not hint and own and own[0] != knobs[0]:
        message = f"{knobs[0]}: {message}"
    if item.quota is not None and len(own) < len(knobs) and not hint:
        hint = f"the other value comes from {item.quota.address}"
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
    one_cpu,
    pool_rlimits,
    notes,
    size,
)


def mount_targets(item: Item, server: Server) -> Iterator[Problem]:
    """Targets that are not normalized, not allowed or used twice."""
    last = None
    for i, mount in enumerate(server.mounts):
        path: Path = ("spec", "mounts", i, "target")
        wrong = wrong_path(mount.target)
        inside = next((each for each in KERNEL_DIRECTORIES if is_below(mount.target, each)), None)
        if wrong:
            yield item.problem(path, wrong)
        elif inside and not is_below(mount.target, SHARED_MEMORY):
            yield item.problem(path, f"cannot mount in {inside}", f"only {SHARED_MEMORY} is allowed")
        if mount.target == last:
            yield _at_last_mount(item, mount.target)
        last = mount.target


def mount_kinds(item: Item, server: Server) -> Iterator[Problem]:
    """Bind mounts without a source, and keys that do not apply to the type of the mount."""
    for i, mount in enumerate(server.mounts):
        path: Path = ("spec", "mounts", i)
        if mount.type == "bind":
            source = mount.source
            wrong = "a bind mount requires a source" if source is None else wrong_path(source, root="")
            if wrong:
                yield item.problem((*path, "source"), wrong)
        for name, key in keys(Mount).items():
            foreign = key.only and key.only[1] != mount.type
            if foreign and getattr(mount, key.field) != key.default:
                yield item.problem((*path, name), f"{name} does not apply to a {mount.type} mount")


def host_ids(item: Item, server: Server) -> Iterator[Problem]:
    """Writable bind mounts in which the server's root is the host's."""
    for i, mount in enumerate(server.mounts):
        if mount.type == "bind" and mount.id_map == "host" and not mount.read_only:
            yield item.problem(
                ("spec", "mounts", i, "idMap"),
                f"the server's root can make setuid programs of the host's root in {mount.source}",
                "omit idMap, or set readOnly: true",
                warning=True,
            )


def tmpfs_size(item: Item, server: Server) -> Iterator[Problem]:
    """tmpfs(5): a size of 0 means no limit."""
    for i, mount in enumerate(server.mounts):
        if mount.type == "tmpfs" and mount.size == 0:
            message = "a size of 0 would mean no limit"
            hint = "omit size for the kernel's default, half of the memory, or write the size of the memory"
            yield item.problem(("spec", "mounts", i, "size"), message, hint)


def working_dir(item: Item, server: Server) -> Iterator[Problem]:
    """A working directory that is not normalized."""
    wrong = wrong_path(server.init.working_dir or "/", root="")
    if wrong:
        yield item.problem(("spec", "init", "workingDir"), wrong)


def command(item: Item, server: Server) -> Iterator[Problem]:
    if server.init.command[:1] == ("",):
        yield item.problem(("spec", "init", "command", 0), "the program name is empty")


def capabilities(item: Item, server: Server) -> Iterator[Problem]:
    """Capabilities that are both added and dropped, and such that have no effect in a server."""
    change = server.security.capabilities
    path: Path = ("spec", "security", "capabilities", "add")
    for name in sorted(set(change.add) & HOST_CAPABILITIES):
        message = f"{name} has no effect: the kernel grants it only outside of user namespaces"
        yield item.problem(path, message, "omit it", warning=True)
    for name in sorted(set(change.add) & set(change.drop)):
        yield item.problem(("spec", "security", "capabilities", "drop"), f"{name} is both added and dropped")


def wrong_path(path: str, *, root: str = "the root directory is not allowed here") -> str:
    """Why the path is not allowed, or "". `root` is the error for `/`."""
    if path == "/":
        return root
    if ".." in path.split("/"):
        return f"{quoted(path)} contains '..'"
    plain = posixpath.normpath(path).replace("//", "/")
    return f"{quoted(path)} is not normalized; write {plain}" if path != plain else ""


def is_below(path: str, directory: str) -> bool:
    """Whether the path is the directory or below it."""
    return path == directory or path.startswith(f"{directory}/")


def _at_last_mount(item: Item, target: str) -> Problem:
    """The problem of a duplicate target, at the last one in the document, where mounts are not sorted."""
    where = [i for i, mount in enumerate(mounts_in(item.document)) if mount["target"] == target]
    path: Path = ("spec", "mounts", where[-1], "target")
    first = dotted((*path[:2], where[0]))
    return problem_at(item.document, path, f"duplicate target {target}, already used by {first}")


SERVER_CHECKS: tuple[Callable[[Item, Server], Iterator[Problem]], ...] = (
    mount_targets,
    mount_kinds,
    host_ids,
    tmpfs_size,
    working_dir,
    command,
    capabilities,
)
