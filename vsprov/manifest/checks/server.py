"""Checks of single servers. Each is a function in `SERVER_CHECKS` that yields the problems it finds."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

from vsprov.errors import Problem
from vsprov.manifest.checks.paths import KERNEL_DIRECTORIES, SHARED_MEMORY, is_below, wrong_path
from vsprov.manifest.checks.probes import probes
from vsprov.manifest.problems import dotted, problem_at, quoted
from vsprov.manifest.resolve import Item, mounts_in
from vsprov.model.fields import Path, keys
from vsprov.model.kinds.sections.mounts import Mount
from vsprov.model.kinds.server import Server
from vsprov.model.values import patterns
from vsprov.model.values.names import HOST_CAPABILITIES
from vsprov.model.values.styles import is_system


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
    """Mounts without a valid source, and keys that do not apply to the type of the mount."""
    for i, mount in enumerate(server.mounts):
        path: Path = ("spec", "mounts", i)
        if wrong := _wrong_source(mount):
            yield item.problem((*path, "source"), *wrong)
        for name, key in keys(Mount).items():
            foreign = key.only and mount.type not in key.only[1:]
            if foreign and getattr(mount, key.field) != key.default:
                yield item.problem((*path, name), f"{name} does not apply to a {mount.type} mount")


def _wrong_source(mount: Mount) -> tuple[str, ...]:
    """Why the source of a bind or volume is not valid, and perhaps a hint; () if it is."""
    source = mount.source
    if mount.type == "tmpfs":
        return ()
    if source is None:
        return (f"a {mount.type} mount requires a source",)
    if mount.type == "volume":
        if re.fullmatch(patterns.NAME_PATTERN, source):
            return ()
        hint = "for a directory of the host: type: bind" if source.startswith("/") else ""
        return f"{quoted(source)} {patterns.NAME['patternErrorMessage']}", hint
    if not source.startswith("/"):
        message = f"{quoted(source)} {patterns.ABSOLUTE['patternErrorMessage']}"
        return message, "for a volume: type: volume" if re.fullmatch(patterns.NAME_PATTERN, source) else ""
    wrong = wrong_path(source, root="")
    return (wrong,) if wrong else ()


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


def shm_size(item: Item, server: Server) -> Iterator[Problem]:
    """tmpfs(5): a size of 0 means no limit."""
    if server.shm_size == 0:
        yield item.problem(("spec", "shmSize"), "a size of 0 would mean no limit", "omit shmSize")


def system_init(item: Item, server: Server) -> Iterator[Problem]:
    """Keys that do not apply to the init of an image, which runs as root until the server stops."""
    style = server.init.style
    if not is_system(style):
        return
    for key, given in (
        ("user", server.init.user not in (None, "0", "0:0", "root", "root:root")),
        ("reaper", server.init.reaper),
        ("oneshot", server.init.oneshot),
    ):
        if given:
            message = f"{key} does not apply to the style {style}"
            yield item.problem(("spec", "init", key), message, "omit it, or use the style exec")


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
    shm_size,
    system_init,
    working_dir,
    command,
    capabilities,
    probes,
)
