"""From documents to objects: defaults filled in, quotas merged, paths made absolute."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from vsprov.errors import Position, Problem
from vsprov.manifest.problems import parsers, position_of, problem_at, subject_of, validate
from vsprov.manifest.syntax.text import Document
from vsprov.model.fields import Path, Report, write
from vsprov.model.kinds.network import Network, without_inapplicable
from vsprov.model.kinds.quota import Quota
from vsprov.model.kinds.server import Server
from vsprov.model.limits.knobs import KNOBS
from vsprov.model.objects import Object, Spec, read_spec
from vsprov.model.traits import replaced
from vsprov.model.values import units
from vsprov.model.values.styles import EXEC, SYSTEM_DEFAULTS, is_system
from vsprov.model.values.units import UnitError
from vsprov.model.values.value_kinds import BYTES, ITEM, LIMIT_BYTES, RLIMIT_BYTES

_ORDER = {knob.path: place for place, knob in enumerate(KNOBS)}


class Origin(Struct, frozen=True):
    """Where a value comes from: "manifest", "default" or a quota ("Quota/small")."""

    text: str
    position: Position | None = None


class Item(Struct, frozen=True):
    """A document and the object read from it.

    `address` is "" if kind or name cannot be read, `object` is None if anything else cannot. `quota`: the
    item whose resources were merged. `sound`: False if a resource may be missing because of an error;
    `partial`: whether items of lists may be missing because of one.
    """

    document: Document
    address: str
    object: Object | None
    quota: Item | None
    sound: bool
    partial: bool = False

    @property
    def file(self) -> str:
        """The file that the document was read from; "" for a document without a text."""
        where = position_of(self.document, ())
        return where.file if where else ""

    def raw_path(self, path: Path) -> Path:
        """The path in the document of a path in the object, where mounts are in a different order.

        It ends before the place in a list of which an item could not be read.
        """
        spec = self.object.spec if self.object else None
        if self.partial and spec is not None:
            path = _certain(path, self.document.value, {"spec": write(spec)})
        if path[:2] != ("spec", "mounts") or len(path) == 2 or not isinstance(spec, Server):
            return path
        place = path[2]
        if not isinstance(place, int) or place >= len(spec.mounts):
            return path
        target = spec.mounts[place].target
        given = [mount["target"] for mount in mounts_in(self.document)]
        return (*path[:2], given.index(target), *path[3:])

    def origin(self, path: Path) -> Origin:
        """Where the object's value at `path` comes from. All of a knob comes from the same place."""
        raw = self.raw_path(path)
        depth = {"Quota": 3, "Server": 4 if path[1:2] == ("resources",) else len(path)}
        whole = raw[: depth.get(self.address.partition("/")[0], len(raw))]
        if _holds(self.document.value, whole):
            return Origin("manifest", position_of(self.document, raw))
        if self.quota is not None and path[:2] == ("spec", "resources"):
            there: Path = ("spec", *raw[2:])
            if _holds(self.quota.document.value, there[:3]):
                return Origin(self.quota.address, position_of(self.quota.document, there))
        return Origin("default")

    def omits(self, path: Path) -> bool:
        """True if the document has no value at `path`; False if it has one, even one with an error there or
        in a key around it.
        """
        value = self.document.value
        for part in path:
            if not isinstance(value, dict) or part not in value:
                return isinstance(value, dict)
            value = value[part]
        return False

    def given(self, path: Path) -> Any:
        """The value at `path` in the document; None if it has none."""
        value: Any = self.document.value
        for part in path:
            value = value.get(part) if isinstance(value, dict) else None
        return value

    def problem(self, path: Path, message: str, hint: str = "", *, warning: bool = False) -> Problem:
        """A problem with the object's value at `path`."""
        return problem_at(self.document, self.raw_path(path), message, hint, warning=warning)

    def position(self, path: Path) -> Position | None:
        """The position that sets the object's value at `path`, or of the nearest key around it."""
        found = self.origin(path).position
        return found or position_of(self.document, self.raw_path(path))


def _certain(path: Path, given: Any, read: Any) -> Path:
    """The path up to the first list of which not all items were read."""
    for place, part in enumerate(path):
        if isinstance(part, int) and (not isinstance(given, list) or len(given) != len(read)):
            return path[:place]
        try:
            given, read = given[part], read[part]
        except (LookupError, TypeError):  # not set, or a short form
            break
    return path


def mounts_in(document: Document) -> list[Any]:
    """The mounts of a Server as written in its document."""
    value: Any = document.value
    mounts: list[Any] = value["spec"]["mounts"]
    return mounts


def resolve(documents: Sequence[Document]) -> tuple[list[Item], list[Problem]]:
    """An item for each document, in order, and all problems and warnings.

    An object may be in several files, if its documents are equal there: it is one item.
    """
    problems: list[Problem] = []
    values: list[tuple[Document, str, dict[str, Any] | None, bool]] = []
    for document in documents:
        found, value = validate(document)
        problems += found
        subject = subject_of(document.value)
        sound = not any(map(_spoils, found))
        values.append((document, subject if "/" in subject else "", value, sound))
    quotas: dict[str, Item] = {}
    for document, address, value, sound in values:
        if address.startswith("Quota/"):
            quotas.setdefault(address, _item(document, address, value, sound, None, problems))
    items = []
    for document, address, value, sound in values:
        known = quotas.get(address)
        if known is not None and known.document is document:
            items.append(known)
        else:
            items.append(_item(document, address, value, sound, _quota_of(value, quotas), problems))
    return list(_without_copies(items)), problems


def _without_copies(items: Iterable[Item]) -> Iterator[Item]:
    """The items without copies of earlier ones in other files: equal, and with equal paths and quotas."""
    first: dict[str, Item] = {}
    for item in items:
        known = first.setdefault(item.address, item)
        if (
            known.object is None
            or known.file == item.file
            or known.document.value != item.document.value
            or known.object != item.object
        ):
            yield item


def _quota_of(value: Mapping[str, Any] | None, quotas: Mapping[str, Item]) -> Item | None:
    return quotas.get(f"Quota/{value['spec'].get('quota')}") if value and value["kind"] == "Server" else None


def _spoils(problem: Problem) -> bool:
    """Whether a resource may be missing because of this problem: an error in one, or an unknown key."""
    parts = problem.path.split(".")
    if problem.severity == "warning" or parts[0] != "spec":
        return False
    return problem.subject.startswith("Quota") or len(parts) < 3 or parts[1] == "resources"


def _item(
    document: Document,
    address: str,
    value: dict[str, Any] | None,
    sound: bool,
    quota: Item | None,
    problems: list[Problem],
) -> Item:
    if value is None or not address:
        return Item(document, address, None, None, False)
    before = len(problems)

    def report(path: Path, error: UnitError) -> None:
        problems.append(problem_at(document, ("spec", *path), str(error), error.hint))

    name = value["metadata"]["name"]
    spec: Spec | None
    if value["kind"] == "Server":
        spec, merged = _server(value["spec"], name, quota, report)
    else:
        spec, merged = read_spec(value["kind"], value["spec"], report), False
    if isinstance(spec, Network):
        spec = without_inapplicable(spec)
    if spec is not None:
        spec = _with_absolute_paths(spec, document)
    partial = len(problems) > before
    sound = sound and (quota is None or quota.sound) and not any(map(_spoils, problems[before:]))
    problems += _decimal_sizes(document, value)
    read = None
    if spec is not None:
        metadata = value["metadata"]
        labels, annotations = metadata.get("labels", {}), metadata.get("annotations", {})
        read = Object(
            kind=value["kind"], name=name, spec=spec, labels=labels, annotations=annotations,
            renamed_from=metadata.get("renamedFrom"),
        )  # fmt: skip
    return Item(document, address, read, quota if merged else None, sound, partial)


def _server(
    raw: Mapping[str, Any], name: str, quota: Item | None, report: Report
) -> tuple[Spec | None, bool]:
    """The spec, and whether the resources of the quota were merged."""
    given = quota.object.spec if quota is not None and quota.object is not None else None
    merged = isinstance(given, Quota) and given.scope == "server"
    spec = read_spec("Server", _with_defaults(raw, name), report)
    if not isinstance(spec, Server):
        return None, merged
    resources = dict(spec.resources)
    if isinstance(given, Quota) and merged:
        resources = {**given.resources, **resources}
        spec = replace(spec, quota=None)
    mounts = tuple(sorted(spec.mounts, key=lambda mount: mount.target))  # parents before their children
    ordered = {path: resources[path] for path in sorted(resources, key=_ORDER.__getitem__)}
    return replace(spec, resources=ordered, mounts=mounts), merged


def _with_defaults(raw: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """A spec with the defaults that depend on the server's name and on other keys."""
    given = {"hostname": name, **raw}
    if is_system(raw.get("init", {}).get("style", EXEC)):
        for section, defaults in SYSTEM_DEFAULTS.items():
            given[section] = {**defaults, **raw.get(section, {})}
    return given


def _with_absolute_paths(spec: Spec, document: Document) -> Spec:
    def absolute(path: str) -> str:
        if os.path.isabs(path):
            return os.path.normpath(path)
        where = document.positions.get(())
        directory = os.path.realpath(os.path.dirname(where.file) if where else "")
        return os.path.normpath(os.path.join(directory, path))

    return replaced(spec, "relative", absolute)


def _decimal_sizes(document: Document, value: Mapping[str, Any]) -> Iterator[Problem]:
    """Warnings about sizes like 10M, which users of other tools may expect to mean 2^20."""
    for path, given in _decimals(value["spec"], ("spec",)):
        if tuple(ITEM if isinstance(part, int) else part for part in path) in _size_paths(value["kind"]):
            try:
                size = units.parse_bytes(given)
            except UnitError:
                continue  # already reported
            message = f"{given} is {size} bytes: {given[-1]} is a power of 1000"
            yield problem_at(document, path, message, f"write {given}i for powers of 1024", warning=True)


def _decimals(value: Any, path: Path) -> Iterator[tuple[Path, str]]:
    """(path, string) of each string that ends like a size in powers of 1000."""
    if isinstance(value, dict):
        for key, inner in value.items():
            if isinstance(inner, dict | list):
                yield from _decimals(inner, (*path, key))
            elif units.is_decimal_size(inner):
                yield (*path, key), inner
    else:
        for i, inner in enumerate(value):
            if isinstance(inner, dict):
                yield from _decimals(inner, (*path, i))


@cache
def _size_paths(kind: str) -> frozenset[Path]:
    """The paths of sizes in bytes, with ITEM for items of lists."""
    readers = {BYTES.parse, LIMIT_BYTES.parse, RLIMIT_BYTES.parse}
    return frozenset(path for path, parse in parsers(kind).items() if parse in readers)


def _holds(value: Any, path: Path) -> bool:
    for part in path:
        if isinstance(value, dict):
            if part not in value:
                return False
        elif isinstance(value, str | int):  # the short form of an object
            return True
        elif not isinstance(value, list) or not isinstance(part, int) or part >= len(value):
            return False
        value = value[part]
    return True
