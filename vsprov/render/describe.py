"""The text of `describe`: for each kind the lines at the top, and the sections below them."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from msgspec import Struct

from vsprov.model.values import digests
from vsprov.model.values.names import signal_name
from vsprov.plan.kinds.planner import PLANNERS
from vsprov.plan.observed import LastExit
from vsprov.render import tables
from vsprov.render.screen import Screen, clean
from vsprov.render.tables import Table, duration, size

Document = Mapping[str, Any]
Rows = Iterable[tuple[str, str]]


class Section(Struct, frozen=True):
    """A titled part of the text. `make` returns its lines or table; it is left out if that is empty."""

    title: str
    make: Callable[[Document], Sequence[str] | Table]


class Description(Struct, frozen=True):
    """How objects of a kind are described.

    `head` are the lines at the top, (label, text). `status` are the keys of the status that they or the
    sections show; all others follow in their JSON form.
    """

    head: Callable[[Document], Rows]
    status: frozenset[str]
    sections: tuple[Section, ...]


DESCRIPTIONS: dict[str, Description] = {}


def text(document: Document, screen: Screen) -> str:
    """The description of an object, with the details that `engine.show.details` adds."""
    kind = document["kind"]
    description = DESCRIPTIONS.get(kind, _ANY)
    document = {**document, "spec": PLANNERS[kind].readable(document["spec"])}
    rows = [*_common(document), *description.head(document), *_others(document, description.status)]
    rows = [(label, value) for label, value in rows if value not in ("", "-")]
    width = max(len(label) for label, _ in rows) + 1
    out = [f"{screen.paint(f'{label}:'.ljust(width), 'bold')} {clean(value)}" for label, value in rows]
    for section in (*description.sections, *_NOT_ENFORCED):
        made = section.make(document)
        if isinstance(made, Table):
            lines = tables.text(made, screen).splitlines() if made.rows else []
        else:
            lines = [clean(line) for line in made]
        if lines:
            out += ["", screen.paint(f"{section.title}:", "bold"), *(f"  {line}".rstrip() for line in lines)]
    return "\n".join(out)


def _common(document: Document) -> Rows:
    metadata = document["metadata"]
    yield "Name", metadata["name"]
    yield "Kind", document["kind"]
    yield "Set", document["status"].get("set") or ", ".join(document["status"].get("sets", ()))
    for key in ("labels", "annotations"):
        yield key.capitalize(), ", ".join(f"{name}={value}" for name, value in metadata.get(key, {}).items())


def _others(document: Document, shown: frozenset[str]) -> Rows:
    """The keys of the status that the description of the kind does not know."""
    for key, value in document["status"].items():
        if key not in shown and key not in ("set", "sets", "notEnforced") and value not in (None, [], {}):
            yield _words(key), value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _words(key: str) -> str:
    """`Last exit` for `lastExit`."""
    words = "".join(f" {letter.lower()}" if letter.isupper() else letter for letter in key)
    return words[:1].upper() + words[1:]


# -- servers


def _server(document: Document) -> Rows:
    spec, status = document["spec"], document["status"]
    since = f" since {status['startedAt']} ({duration(status['uptimeSeconds'])})"
    yield "State", tables.state(status) + (since if status["startedAt"] else "")
    yield "Last exit", _exit(status["lastExit"])
    yield "Restart", _restart(status["restart"])
    yield "Snapshots", _snapshots(status["snapshots"])
    yield "Disk", (status["disk"] or {}).get("problem") or "-"
    yield "Watched", "by no keeper" if status["watched"] is False else "-"
    yield "PID", str(status["pid"] or "-")
    yield "Image", f"{spec.get('image', '-')} ({digests.short(status['image'] or '-')})"
    yield "Pool", spec.get("quota", "-")
    yield "Hostname", spec.get("hostname", "-")
    init = spec.get("init", {})
    yield "Command", " ".join(document["details"]["command"]) or "unknown"
    yield "User", init.get("user", "-")
    yield "Depends on", ", ".join(one["name"] for one in spec.get("dependsOn", ()))
    yield "Addresses", ", ".join(status["addresses"])
    yield "Ports", ", ".join(map(tables.port_text, status["ports"]))
    ids = status["idRange"]
    yield "ID range", f"{ids['first']}-{ids['first'] + ids['count'] - 1}" if ids else "-"
    yield "Cgroup", status["cgroup"] or "-"


def _exit(last: Mapping[str, Any] | None) -> str:
    if not last:
        return "-"
    ended = LastExit(last["code"], last["signal"], last["oom"], 0)
    if ended.is_reboot:
        how = f"{ended.reason} from inside"
    elif ended.signal is not None:
        how = f"killed: SIG{signal_name(ended.signal)}"
    else:
        how = "ended, it is unknown how," if ended.code is None else f"exited {ended.code}"
    if ended.oom:
        how = f"killed: {ended.reason}" if ended.signal == signal.SIGKILL else f"{how}, {ended.reason}"
    if last["stoppedBy"]:
        by = "the keeper" if last["stoppedBy"] == "keeper" else f"vsprov {last['stoppedBy']}"
        why = f", because its {last['reason']}," if last["reason"].endswith(" failed") else ""
        return f"stopped by {by}{why} at {last['at']} ({_how_stopped(last['killed'], how)})"
    return f"{how} at {last['at']}"


def _how_stopped(killed: str, how: str) -> str:
    """How a server has ended that a command stopped. One that ends by its stop signal has no exit code."""
    return f"killed: {killed}" if killed.startswith("no ") else f"killed {killed}" if killed else how


def _restart(restart: Mapping[str, Any] | None) -> str:
    if not restart:
        return "-"
    error = f"; the last attempt failed: {restart['error']}" if restart["error"] else ""
    if restart["state"] == "Waiting":
        return f"at {restart['at']}, because of: {restart['reason']}{error}"
    return f"{restart['reason']}{error}"


def _snapshots(found: Mapping[str, Any] | None) -> str:
    """When the schedule of a server makes the next snapshot, and which was the last."""
    if not found:
        return "-"
    last = f"; last: {found['last']['name']}" if found["last"] else ""
    return f"{found['schedule']}; next: {found['next'] or '-'}{last}"


def _exits(document: Document) -> list[str]:
    return [_exit(each) for each in document["details"]["exits"]]


def _usage(document: Document) -> Table:
    """What a server or pool uses, beside the limits for it, and all other resources that are set."""
    used = document["status"]["usage"]
    spec = document["spec"]
    given = dict(_flat(spec.get("resources", {}) if document["kind"] == "Server" else spec))
    given.pop("scope", None)
    cpu = "-" if used["cpuSeconds"] is None else f"{used['cpuSeconds']:.1f}s"
    rows = [
        ("cpu", cpu, _limit(given.pop("cpu.limit", None))),
        ("memory", size(used["memoryBytes"]), _limit(given.pop("memory.max", None))),
        ("pids", str(used["pids"] if used["pids"] is not None else "-"), _limit(given.pop("pids.max", None))),
    ]
    if used.get("diskBytes") is not None:
        rows.append(("disk", size(used["diskBytes"]), _limit(given.pop("disk.space", None))))
    if (disk := document["status"].get("disk")) and disk["inodes"] is not None:
        given.pop("disk.inodes", None)
        rows.append(("inodes", str(disk["usedInodes"]), str(disk["inodes"])))
    rows += [(key, "", _limit(value)) for key, value in given.items()]
    return Table(("RESOURCE", "IN USE", "LIMIT"), tuple(rows), frozenset(("IN USE", "LIMIT")), wide=True)


def _flat(tree: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, Mapping) and not value.keys() & {"soft", "hard"}:
            yield from _flat(value, f"{before}{key}.")
        else:
            yield f"{before}{key}", value


def _limit(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, Mapping):  # a resource limit of processes
        return "/".join(str(value[key]) for key in ("soft", "hard") if key in value)
    return json.dumps(value) if isinstance(value, list) else str(value)


def _interfaces(document: Document) -> Table:
    return _interface_table("NETWORK", document["status"]["interfaces"], "network")


def _interface_table(title: str, interfaces: Iterable[Mapping[str, Any]], key: str) -> Table:
    rows = tuple(
        (
            one[key] or "-",
            one["name"],
            "up" if one["up"] else "down",
            ", ".join(one["addresses"]) or "-",
            one["mac"] or "-",
            str(one["mtu"]),
            one["link"] or "-",
        )
        for one in interfaces
    )
    return Table((title, "INTERFACE", "STATE", "ADDRESSES", "MAC", "MTU", "LINK"), rows, wide=True)


def _mounts(document: Document) -> Table:
    rows = tuple(
        (one["target"], one["type"], one.get("source", "-"), "read-only" if one.get("readOnly") else "")
        for one in document["spec"].get("mounts", ())
    )
    return Table(("TARGET", "TYPE", "SOURCE", ""), rows, wide=True)


def _conditions(document: Document) -> Table:
    """The conditions of the status, if it has any: their type, status, reason and message."""
    keys = ("type", "status", "reason", "message")
    rows = tuple(
        tuple(str(one.get(key) or "-") for key in keys) for one in document["status"].get("conditions", ())
    )
    return Table(tuple(key.upper() for key in keys), rows, wide=True)


def _differences(document: Document) -> list[str]:
    return [
        f"{one['path']}: {one['before']} → {one['after']}"
        + ("" if one["disruption"] == "none" else f" ({one['disruption']})")
        for one in document["details"]["differences"]
    ]


def _processes(document: Document) -> Table:
    rows = tuple(
        (
            str(one["pid"]),
            str(one["inner"]),
            "-" if one["user"] is None else str(one["user"]),
            size(one["resident"]),
            f"{one['seconds']:.1f}s",
            one["command"],
        )
        for one in document["details"]["processes"]
    )
    right = frozenset(("PID", "NSPID", "USER", "RSS", "TIME"))
    return Table(("PID", "NSPID", "USER", "RSS", "TIME", "COMMAND"), rows, right, wide=True)


def _log(document: Document) -> Sequence[str]:
    lines: Sequence[str] = document["details"]["log"]
    return lines


def _not_enforced(document: Document) -> list[str]:
    return [f"{one['path']}: {one['reason']}" for one in document["status"].get("notEnforced", ())]


_NOT_ENFORCED = (Section("Not enforced", _not_enforced),)
DESCRIPTIONS["Server"] = Description(
    _server,
    frozenset(
        "state pid startedAt uptimeSeconds cgroup image addresses interfaces ports idRange usage "
        "disk lastExit restart snapshots watched conditions".split()
    ),
    (
        Section("Conditions", _conditions),
        Section("Changed since it was applied", _differences),
        Section("Resources", _usage),
        Section("Networks", _interfaces),
        Section("Mounts", _mounts),
        Section("Processes", _processes),
        Section("Exits", _exits),
        Section("Last lines of the log", _log),
    ),
)

# -- images, quotas, networks, volumes


def _image(document: Document) -> Rows:
    details = document["details"]
    yield "Source", json.dumps(document["spec"].get("source", {}), ensure_ascii=False)
    yield "Digest", document["status"]["digest"] or "-"
    yield "Size", f"{size(details['size'])}, {size(details['shared'])} of it shared with other images"
    yield "Problem", details["problem"] or "-"
    yield "Used by", ", ".join(details["usedBy"]) or "nothing"
    for key, value in details["defaults"].items():
        shown = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        yield f"Default {_words(key).lower()}", shown


def _layers(document: Document) -> list[str]:
    return [digests.full(key) for key in document["details"]["layers"]]


DESCRIPTIONS["Image"] = Description(_image, frozenset(("digest",)), (Section("Layers", _layers),))


def _quota(document: Document) -> Rows:
    yield "Scope", document["spec"]["scope"]
    yield "Cgroup", document["status"]["cgroup"]


def _servers(document: Document) -> Table:
    return tables.objects("Server", document["details"]["servers"])


DESCRIPTIONS["Quota"] = Description(
    _quota, frozenset(("cgroup", "usage")), (Section("Resources", _usage), Section("Servers", _servers))
)


def _network(document: Document) -> Rows:
    spec, status = document["spec"], document["status"]
    yield "Type", spec.get("type", "-")
    yield "Subnets", ", ".join(spec.get("subnets", ()))
    yield "Link", (status["link"] or "missing") + (" (down)" if status["up"] is False else "")
    yield "Addresses", ", ".join(status["addresses"])
    for key, value in spec.items():
        if key not in ("type", "subnets") and value not in ([], {}, None):
            yield _words(key), value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    yield "Servers", ", ".join(status["servers"]) or "none"


def _members(document: Document) -> Table:
    return _interface_table("SERVER", document["details"]["interfaces"], "server")


DESCRIPTIONS["Network"] = Description(
    _network,
    frozenset(("link", "up", "addresses", "servers")),
    (Section("Interfaces of running servers", _members),),
)


def _volume(document: Document) -> Rows:
    spec, status = document["spec"], document["status"]
    yield "Source", json.dumps(spec["source"], ensure_ascii=False) if "source" in spec else "none"
    yield "Exclusive", "yes" if spec.get("exclusive") else "no"
    disk = status["disk"] or {}
    limit = f" of {size(disk['spaceBytes'])}" if disk.get("spaceBytes") else ""
    yield "Size", size(status["usage"].get("diskBytes")) + limit
    if disk.get("inodes"):
        yield "Inodes", f"{disk['usedInodes']} of {disk['inodes']}"
    if disk:
        yield "Limited by", disk["backend"]
    if root := status["root"]:
        yield "Root directory", f"owner {root['owner']}, mode {root['mode']}"
    if status["createdAt"]:
        yield "Created", f"{status['createdAt']} ({duration(status['ageSeconds'])} ago)"
    yield "Used by", ", ".join(f"Server/{name}" for name in status["usedBy"]) or "nothing"


def _volume_mounts(document: Document) -> Table:
    rows = tuple(
        (one["server"], one["target"], "read-only" if one["readOnly"] else "read-write")
        for one in document["details"]["mounts"]
    )
    return Table(("SERVER", "TARGET", "ACCESS"), rows, wide=True)


DESCRIPTIONS["Volume"] = Description(
    _volume,
    frozenset(("usage", "disk", "root", "createdAt", "ageSeconds", "usedBy")),
    (Section("Mounted in running servers", _volume_mounts),),
)


def _any(document: Document) -> Rows:
    """All keys of the spec, for kinds without a description of their own."""
    for key, value in _flat(document["spec"]):
        yield key, value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


_ANY = Description(_any, frozenset(), ())
