"""Checks of single objects: those of any kind, and those of its kind."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from vsprov.errors import Problem
from vsprov.manifest.checks.image import IMAGE_CHECKS
from vsprov.manifest.checks.limits import LIMIT_CHECKS
from vsprov.manifest.checks.networks.interfaces import INTERFACE_CHECKS
from vsprov.manifest.checks.networks.network import NETWORK_CHECKS
from vsprov.manifest.checks.server import SERVER_CHECKS
from vsprov.manifest.checks.volume import VOLUME_CHECKS
from vsprov.manifest.problems import quoted
from vsprov.manifest.resolve import Item
from vsprov.model import objects
from vsprov.model.fields import Path
from vsprov.model.kinds.quota import Quota
from vsprov.model.kinds.server import Server
from vsprov.model.limits.knobs import BY_PATH
from vsprov.model.objects import Object
from vsprov.model.suggest import did_you_mean

NAME: Path = ("metadata", "name")
# The record of a server is stored in an extended attribute of its cgroup of up to 64 KiB (XATTR_SIZE_MAX).
MOST_TEXT = 32 * 1024
MOST_SUGGESTIONS = 20


def check(item: Item) -> Iterator[Problem]:
    """The problems and warnings of a single object."""
    if item.object is None:
        return
    for one in (*LIMIT_CHECKS, *OBJECT_CHECKS):
        yield from one(item, item.object)
    for each in KIND_CHECKS.get(item.object.kind, ()):
        yield from each(item, item.object.spec)


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
        elif key == objects.DELETION:
            if text != objects.PREVENT:
                message = f"unsupported value {quoted(text)}"
                yield item.problem(path, message, f"set {objects.PREVENT}, or omit it")
            elif isinstance(read.spec, Quota) and read.spec.scope == "server":
                message = "a quota with scope server is part of the servers that name it: it is not removed"
                yield item.problem(path, message, "annotate the servers")
        elif key.startswith("vsprov/"):
            known = (objects.IGNORE, objects.REQUIRE, objects.DELETION)
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


def _length(value: Any) -> int:
    if isinstance(value, str):
        return len(value)
    if isinstance(value, Mapping):
        return sum(len(key) + _length(inner) for key, inner in value.items())
    return sum(_length(inner) for inner in value)


OBJECT_CHECKS: tuple[Callable[[Item, Object], Iterator[Problem]], ...] = (notes, size)
KIND_CHECKS: Mapping[str, Sequence[Callable[[Item, Any], Iterator[Problem]]]] = {
    "Image": IMAGE_CHECKS,
    "Network": NETWORK_CHECKS,
    "Volume": VOLUME_CHECKS,
    "Server": (*SERVER_CHECKS, *INTERFACE_CHECKS),
}
