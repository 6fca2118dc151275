"""Tables with aligned columns."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vsprov.model.objects import require_rows
from vsprov.model.values import digests, units
from vsprov.render.screen import Screen, clean

_COLORS = {"Running": "green", "Stopped": "yellow", "ok": "green", "degraded": "yellow", "missing": "red"}


@dataclass(frozen=True, slots=True)
class Table:
    """`right` names the columns that are aligned to the right."""

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    right: frozenset[str] = frozenset()


def text(table: Table, screen: Screen) -> str:
    """The table with two spaces between columns; on a terminal, long lines are truncated."""
    rows = [tuple(clean(word) for word in row) for row in table.rows]
    widths = [max([len(name), *(len(row[i]) for row in rows)]) for i, name in enumerate(table.columns)]
    head = _line(table.columns, table, widths)
    out = [screen.paint(_cut(head, screen), "bold")]
    for row in rows:
        line = _cut(_line(row, table, widths), screen)
        for word in row:
            if word in _COLORS:
                line = line.replace(f" {word}", f" {screen.paint(word, _COLORS[word])}", 1)
        out.append(line)
    return "\n".join(out)


def _line(row: Sequence[str], table: Table, widths: Sequence[int]) -> str:
    words = [
        word.rjust(width) if name in table.right else word.ljust(width)
        for word, name, width in zip(row, table.columns, widths, strict=True)
    ]
    return "  ".join(words).rstrip()


def _cut(line: str, screen: Screen) -> str:
    if not screen.terminal or len(line) <= screen.width:
        return line
    return line[: screen.width - 1] + screen.sign("…", "~")


@dataclass(frozen=True, slots=True)
class KindTable:
    """The table of `vsprov get` for a kind: the columns, those of `-o wide` besides, and which hold numbers.

    `row` returns the cells of a document; the second argument asks for those of the wide table too.
    """

    columns: tuple[str, ...]
    wide: tuple[str, ...]
    row: Callable[[Mapping[str, Any], bool], tuple[str, ...]]
    right: frozenset[str] = frozenset()


TABLES: dict[str, KindTable] = {}


def objects(kind: str, documents: Sequence[Mapping[str, Any]], *, wide: bool = False) -> Table:
    """The table of `vsprov get` for documents of one kind."""
    table = TABLES[kind]
    columns = (*table.columns, *table.wide) if wide else table.columns
    return Table(columns, tuple(table.row(one, wide) for one in documents), table.right)


MOST_USERS = 3  # names of servers in a table that is not wide


def _server(document: Mapping[str, Any], wide: bool) -> tuple[str, ...]:
    spec, status = document["spec"], document["status"]
    row = (
        document["metadata"]["name"],
        status["state"],
        _or_dash(status["pid"]),
        _or_dash(spec.get("image")),
        _or_dash(spec.get("quota")),
        *_usage(document),
        duration(status["uptimeSeconds"]),
    )
    if not wide:
        return row
    ids = status["idRange"]
    span = f"{ids['first']}-{ids['first'] + ids['count'] - 1}" if ids else "-"
    command = " ".join(spec.get("init", {}).get("command", ()))
    return (
        *row,
        size(status["usage"].get("diskBytes")),
        _or_dash(spec.get("hostname")),
        _or_dash(status["set"]),
        span,
        _or_dash(status["cgroup"]),
        _or_dash(command),
    )


def _image(document: Mapping[str, Any], wide: bool) -> tuple[str, ...]:
    digest = digests.short(document["status"]["digest"] or "-")
    row = (document["metadata"]["name"], _source(document["spec"]["source"]), digest)
    return (*row, _or_dash(document["status"]["set"])) if wide else row


def images(items: Sequence[Mapping[str, Any]], *, wide: bool = False) -> Table:
    """The table of `vsprov image ls`."""
    columns: tuple[str, ...] = ("NAME", "SOURCE", "DIGEST", "SIZE", "SHARED", "PRIVATE", "USED BY")
    rows = []
    for item in items:
        used = [address.partition("/")[2] for address in item["used_by"]]
        shown = ", ".join(used) if wide or len(used) <= MOST_USERS else f"{len(used)} servers"
        row = (
            item["name"],
            _source(item["source"]),
            digests.short(item["digest"] or "-"),
            size(item["size"]),
            size(item["shared"]),
            size(item["private"]),
            shown or "-",
        )
        rows.append((*row, str(item["layers"]), _or_dash(item["set"])) if wide else row)
    columns = (*columns, "LAYERS", "SET") if wide else columns
    return Table(columns, tuple(rows), frozenset(("SIZE", "SHARED", "PRIVATE", "LAYERS")))


def _source(source: Mapping[str, Any]) -> str:
    """A source in short: its kind, and its path, reference or suite."""
    for kind, value in source.items():
        if isinstance(value, str):
            return f"{kind} {value}"
        keys = ("path", "ref", "layout", "archive", "suite", "from")
        return f"{kind} {next((value[key] for key in keys if key in value), '')}".rstrip()
    return "-"


def _quota(document: Mapping[str, Any], wide: bool) -> tuple[str, ...]:
    row = (document["metadata"]["name"], document["spec"]["scope"], *_usage(document))
    return (*row, _or_dash(document["status"]["set"]), document["status"]["cgroup"]) if wide else row


def _usage(document: Mapping[str, Any]) -> tuple[str, str, str]:
    """CPU time, memory and processes in use, with their limits."""
    used, resources = document["status"]["usage"], document["spec"].get("resources", document["spec"])
    cpu = "-" if used["cpuSeconds"] is None else f"{used['cpuSeconds']:.1f}s"
    memory = _of(size(used["memoryBytes"]), resources.get("memory", {}).get("max"), size)
    pids = _of(_or_dash(used["pids"]), resources.get("pids", {}).get("max"), str)
    return cpu, memory, pids


def _of(used: str, limit: Any, show: Any) -> str:
    return used if limit in (None, "max") else f"{used}/{show(limit)}"


def _or_dash(value: Any) -> str:
    return "-" if value in (None, "") else str(value)


def size(count: Any) -> str:
    """A number of bytes as `12.3Mi`, exact if it is a multiple of a unit; "-" for None."""
    if count is None:
        return "-"
    count = units.parse_bytes(count)
    exact = units.format_bytes(count)
    if exact != str(count) and len(exact) <= 6:
        return exact
    for suffix, factor in reversed(units.BINARY.items()):
        if count >= factor:
            return f"{count / factor:.1f}{suffix}"
    return str(count)


def duration(seconds: float | None) -> str:
    """Seconds in the two largest units: `3d4h`, `5m12s`, `8s`; "-" for None."""
    if seconds is None:
        return "-"
    left = int(seconds)
    parts: list[str] = []
    for unit, factor in (("d", 86400), ("h", 3600), ("m", 60), ("s", 1)):
        count, left = divmod(left, factor)
        if count or (parts and len(parts) < 2):
            parts.append(f"{count}{unit}")
    return "".join(parts[:2]) or "0s"


_NUMBERS = frozenset(("PID", "CPU", "MEMORY", "PIDS", "UPTIME", "DISK"))
TABLES["Server"] = KindTable(
    ("NAME", "STATE", "PID", "IMAGE", "QUOTA", "CPU", "MEMORY", "PIDS", "UPTIME"),
    ("DISK", "HOSTNAME", "SET", "ID-RANGE", "CGROUP", "COMMAND"),
    _server,
    _NUMBERS,
)
TABLES["Image"] = KindTable(("NAME", "SOURCE", "DIGEST"), ("SET",), _image)
TABLES["Quota"] = KindTable(("NAME", "SCOPE", "CPU", "MEMORY", "PIDS"), ("SET", "CGROUP"), _quota, _NUMBERS)


require_rows(TABLES, __name__)
