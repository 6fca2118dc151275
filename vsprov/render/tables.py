"""Tables with aligned columns."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from itertools import zip_longest
from typing import Any

from msgspec import Struct

from vsprov.model.objects import require_rows
from vsprov.model.values import digests, units
from vsprov.render.screen import Screen, clean

_COLORS = {
    "Running": "green",
    "Ready": "green",
    "Starting": "yellow",
    "NotReady": "yellow",
    "Unhealthy": "red",
    "Stopped": "yellow",
    "Frozen": "yellow",
    "Rescue": "yellow",
    "ok": "green",
    "degraded": "yellow",
    "missing": "red",
}


NARROWEST = 12  # columns to which the text of a column may be wrapped


class Table(Struct, frozen=True):
    """`right` names the columns that are aligned to the right; `optional` those that are left out on a
    terminal that is too narrow, the least important first. A `wide` table is never narrowed.
    """

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    right: frozenset[str] = frozenset()
    optional: tuple[str, ...] = ()
    wide: bool = False


def text(table: Table, screen: Screen) -> str:
    """The table with two spaces between columns.

    If it is wider than the terminal, optional columns are left out, which the last line says, and then the
    text of the widest columns is wrapped. No text is truncated.
    """
    rows = [tuple(clean(word) for word in row) for row in table.rows]
    widths = {name: max(len(name), *(len(row[i]) for row in rows), 0) for i, name in enumerate(table.columns)}
    missing: list[str] = []
    if screen.terminal and not table.wide:
        for name in table.optional:
            if _total(widths) <= screen.width:
                break
            del widths[name]
            missing.append(name)
        _narrow(widths, table.right, screen.width)
    out = [screen.paint(_lines(dict(zip(widths, widths, strict=True)), widths, table.right)[0], "bold")]
    for row in rows:
        cells = {name: word for name, word in zip(table.columns, row, strict=True) if name in widths}
        out += _painted(_lines(cells, widths, table.right), row, screen)
    if missing and rows:
        hidden = ", ".join(name for name in table.columns if name in missing)
        out.append(screen.paint(f"Not shown on a terminal of {screen.width} columns: {hidden}", "dim"))
    return "\n".join(out)


def _total(widths: Mapping[str, int]) -> int:
    return sum(widths.values()) + 2 * (len(widths) - 1)


def _narrow(widths: dict[str, int], right: frozenset[str], limit: int) -> None:
    """Reduce the widest columns of text until the total is within the limit or none can be reduced."""
    while _total(widths) > limit:
        widest = max((name for name in widths if name not in right), key=widths.__getitem__)
        if widths[widest] <= max(NARROWEST, len(widest)):
            return
        widths[widest] -= 1


def _lines(cells: Mapping[str, str], widths: Mapping[str, int], right: frozenset[str]) -> list[str]:
    """A row of the table: one line, or more where text has to be wrapped."""
    from textwrap import wrap

    wrapped = [
        wrap(word, widths[name], break_on_hyphens=False) if len(word) > widths[name] else [word]
        for name, word in cells.items()
    ]
    return [
        "  ".join(
            word.rjust(width) if name in right else word.ljust(width)
            for word, (name, width) in zip(words, widths.items(), strict=True)
        ).rstrip()
        for words in zip_longest(*wrapped, fillvalue="")
    ]


def _painted(lines: list[str], row: Sequence[str], screen: Screen) -> list[str]:
    for word in row:
        if word in _COLORS:
            lines[0] = lines[0].replace(f" {word}", f" {screen.paint(word, _COLORS[word])}", 1)
    return lines


class KindTable(Struct, frozen=True):
    """The table of `vsprov get` for a kind: the columns, those of `-o wide` besides, and which hold numbers.

    `row` returns the cells of a document; the second argument asks for those of the wide table too.
    `optional`: the columns that a narrow terminal may lack, the least important first.
    """

    columns: tuple[str, ...]
    wide: tuple[str, ...]
    row: Callable[[Mapping[str, Any], bool], tuple[str, ...]]
    right: frozenset[str] = frozenset()
    optional: tuple[str, ...] = ()


TABLES: dict[str, KindTable] = {}


def objects(kind: str, documents: Sequence[Mapping[str, Any]], *, wide: bool = False) -> Table:
    """The table of `vsprov get` for documents of one kind."""
    table = TABLES[kind]
    columns = (*table.columns, *table.wide) if wide else table.columns
    rows = tuple(table.row(one, wide) for one in documents)
    return Table(columns, rows, table.right, table.optional, wide)


MOST_USERS = 3  # names of servers in a table that is not wide
MOST_LISTED = 5  # items in one column of a wide table; JSON has all of them


def _listed(items: Sequence[str]) -> str:
    """The items, or the first of them and how many more there are: "a, b, c, d, e + 95 more"."""
    more = len(items) - MOST_LISTED
    return ", ".join(items[:MOST_LISTED]) + (f" + {more} more" if more > 0 else "") or "-"


def _server(document: Mapping[str, Any], wide: bool) -> tuple[str, ...]:
    spec, status = document["spec"], document["status"]
    row = (
        document["metadata"]["name"],
        state(status),
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
        _listed([_without_prefix(one) for one in status.get("addresses", ())]),
        _listed([port_text(one) for one in status.get("ports", ())]),
        _disk(status),
        _or_dash(spec.get("hostname")),
        _or_dash(status["set"]),
        span,
        _or_dash(status["cgroup"]),
        _or_dash(command),
    )


def _without_prefix(address: str) -> str:
    return address.partition("/")[0]


def port_text(port: Mapping[str, Any]) -> str:
    """A published port as people write it: "127.0.0.1:8080:80/udp", without what is the default."""
    host = port.get("hostIP") or ""
    front = f"[{host}]:" if ":" in host else f"{host}:" if host else ""
    protocol = port.get("protocol", "tcp")
    inner = port.get("port") or port["hostPort"]
    return f"{front}{port['hostPort']}:{inner}" + ("" if protocol == "tcp" else f"/{protocol}")


def state(status: Mapping[str, Any]) -> str:
    """The state of a server, and if it ended by itself, how long ago: "Exited (3) 2m5s ago"."""
    last, restart = status["lastExit"], status["restart"]
    if restart and restart["state"] == "Waiting":
        return _restarting(status["state"], restart)
    if status["state"] in ("Running", "Frozen", "Stopped") or not last:
        return str(status["state"])
    gave_up = ", gave up" if restart else ""
    return f"{status['state']} {duration(-_until(last['at']))} ago{gave_up}"


def _restarting(state: str, restart: Mapping[str, Any]) -> str:
    """When a server is started again, and how often it was within the interval: "Restarting in 4s (2/5)"."""
    seconds = _until(restart["at"])
    when = f" in {duration(seconds)}" if seconds > 0 else ""
    most = "" if restart["attempts"] == "max" else f"/{restart['attempts']}"
    return f"{state}{when} ({restart['count']}{most})"


def _until(time: str) -> float:
    return (datetime.fromisoformat(time) - datetime.now(UTC)).total_seconds()


def _image(document: Mapping[str, Any], wide: bool) -> tuple[str, ...]:
    digest = digests.short(document["status"]["digest"] or "-")
    row = (document["metadata"]["name"], _source(document["spec"].get("source", {})), digest)
    return (*row, _listed(document["status"]["sets"])) if wide else row


def images(items: Sequence[Mapping[str, Any]], *, wide: bool = False) -> Table:
    """The table of `vsprov image ls`."""
    columns: tuple[str, ...] = ("NAME", "SOURCE", "DIGEST", "SIZE", "SHARED", "PRIVATE", "USED BY")
    rows = []
    for item in items:
        used = [address.partition("/")[2] for address in item["usedBy"]]
        shown = _listed(used) if wide or len(used) <= MOST_USERS else f"{len(used)} servers"
        row = (
            item["name"],
            _source(item["source"]),
            digests.short(item["digest"] or "-"),
            size(item["size"]),
            size(item["shared"]),
            size(item["private"]),
            shown,
        )
        rows.append((*row, str(item["layers"]), _listed(item["sets"])) if wide else row)
    columns = (*columns, "LAYERS", "SET") if wide else columns
    right = frozenset(("SIZE", "SHARED", "PRIVATE", "LAYERS"))
    return Table(columns, tuple(rows), right, ("DIGEST", "SHARED", "PRIVATE"), wide)


def _source(source: Mapping[str, Any]) -> str:
    """A source in short: its kind, and its path, reference, suite, image or server."""
    for kind, value in source.items():
        if isinstance(value, str):
            return f"{kind} {value}"
        keys = ("name", "path", "ref", "layout", "archive", "suite", "from", "server")
        return f"{kind} {next((value[key] for key in keys if key in value), '')}".rstrip()
    return "-"


def _quota(document: Mapping[str, Any], wide: bool) -> tuple[str, ...]:
    row = (document["metadata"]["name"], document["spec"]["scope"], *_usage(document))
    if not wide:
        return row
    status = document["status"]
    return (*row, _disk(status), _or_dash(status["set"]), status["cgroup"])


def _disk(status: Mapping[str, Any]) -> str:
    """What is used of a disk, with its limit."""
    return _of(size(status["usage"].get("diskBytes")), (status["disk"] or {}).get("spaceBytes"), size)


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


def amount(files: int, count: int) -> str:
    """What was copied, for a sentence: `1 file, 12 bytes`, `3 files, 12.3Mi`."""
    told = size(count)
    if told.isdigit():
        told += " byte" if count == 1 else " bytes"
    return f"{files} {'file' if files == 1 else 'files'}, {told}"


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


def _network(document: Mapping[str, Any], wide: bool) -> tuple[str, ...]:
    spec = document["spec"]
    row = (
        document["metadata"]["name"],
        _or_dash(spec.get("type")),
        _listed(spec.get("subnets", ())),
    )
    if not wide:
        return row
    status = document["status"]
    link = _or_dash(status.get("link")) + (" (down)" if status.get("up") is False else "")
    return (*row, link, _listed(status.get("servers", ())), _or_dash(status.get("set")))


def _volume(document: Mapping[str, Any], wide: bool) -> tuple[str, ...]:
    spec, status = document["spec"], document["status"]
    disk = status["disk"] or {}
    row = (
        document["metadata"]["name"],
        _disk(status),
        _listed(status["usedBy"]),
        duration(status["ageSeconds"]),
    )
    if not wide:
        return row
    inodes = _of(_or_dash(disk.get("usedInodes")), disk.get("inodes") or None, str)
    sharing = "exclusive" if spec.get("exclusive") else "shared"
    source = _source(spec.get("source", {}))
    return (*row, inodes, _or_dash(disk.get("backend")), source, sharing, _or_dash(status["set"]))


_NUMBERS = frozenset(("PID", "CPU", "MEMORY", "PIDS", "UPTIME", "DISK"))
TABLES["Server"] = KindTable(
    ("NAME", "STATE", "PID", "IMAGE", "QUOTA", "CPU", "MEMORY", "PIDS", "UPTIME"),
    ("ADDRESSES", "PORTS", "DISK", "HOSTNAME", "SET", "ID-RANGE", "CGROUP", "COMMAND"),
    _server,
    _NUMBERS,
    ("PID", "QUOTA", "UPTIME", "PIDS", "CPU", "IMAGE", "MEMORY"),
)
TABLES["Image"] = KindTable(("NAME", "SOURCE", "DIGEST"), ("SET",), _image, optional=("DIGEST",))
TABLES["Quota"] = KindTable(
    ("NAME", "SCOPE", "CPU", "MEMORY", "PIDS"), ("DISK", "SET", "CGROUP"), _quota, _NUMBERS, ("PIDS", "CPU")
)
TABLES["Network"] = KindTable(("NAME", "TYPE", "SUBNETS"), ("LINK", "SERVERS", "SET"), _network)
TABLES["Volume"] = KindTable(
    ("NAME", "SIZE", "USED-BY", "AGE"),
    ("INODES", "BACKEND", "SOURCE", "SHARING", "SET"),
    _volume,
    frozenset(("SIZE", "AGE", "INODES")),
)


require_rows(TABLES, __name__)
