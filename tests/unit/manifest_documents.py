"""Documents for property tests: any JSON, what fits a schema, what nearly does, manifests without a fault."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

from hypothesis import strategies as st

from vsprov.manifest.schema import document_schema
from vsprov.model.limits.knobs import KNOBS
from vsprov.model.objects import KINDS
from vsprov.model.values.names import CAPABILITIES

SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.floats(allow_nan=False),
    st.text(max_size=8),
    st.sampled_from(
        ["max", "512Mi", "10M", "1500m", "1m30s", "-1", "/srv", "web1", "", "a\n", "x-a", "/proc/self"]
    ),
)
JSON = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


def fitting(schema: dict[str, Any]) -> st.SearchStrategy[Any]:
    """Values that fit a schema, where its types and patterns are all it asks for."""
    if "const" in schema:
        return st.just(schema["const"])
    if "enum" in schema:
        return st.sampled_from(schema["enum"])
    types = [schema["type"]] if isinstance(schema["type"], str) else schema["type"]
    return st.one_of([_FITTING[name](schema) for name in types])


def _text(schema: dict[str, Any]) -> st.SearchStrategy[Any]:
    if "pattern" in schema:
        most = schema.get("maxLength", 4096)
        return st.from_regex(schema["pattern"][:-1] + r"\Z").filter(lambda text: len(text) <= most)
    return st.text(max_size=5)


def _map(schema: dict[str, Any]) -> st.SearchStrategy[Any]:
    if "properties" not in schema:
        keys = _text(schema.get("propertyNames", {}))
        return st.dictionaries(keys, fitting(schema["additionalProperties"]), max_size=2)
    needed = {key: fitting(schema["properties"][key]) for key in schema.get("required", ())}
    rest = {key: fitting(inner) for key, inner in schema["properties"].items() if key not in needed}
    return st.fixed_dictionaries(needed, optional=rest).filter(
        lambda value: len(value) >= schema.get("minProperties", 0)
    )


_FITTING: dict[str, Callable[[dict[str, Any]], st.SearchStrategy[Any]]] = {
    "string": _text,
    "object": _map,
    "boolean": lambda schema: st.booleans(),
    "integer": lambda schema: st.integers(schema.get("minimum"), schema.get("maximum")),
    "number": lambda schema: st.floats(schema.get("minimum"), 100, allow_nan=False),
    "array": lambda schema: st.lists(
        fitting(schema["items"]), min_size=schema.get("minItems", 0), max_size=2
    ),
}


FITTING_DOCUMENTS = st.one_of([fitting(document_schema(kind)) for kind in KINDS])


@st.composite
def nearly_right(draw: st.DrawFn) -> Any:
    """A document that fits its schema, with a few parts replaced, removed, added or renamed."""
    document = copy.deepcopy(draw(FITTING_DOCUMENTS))
    for _ in range(draw(st.integers(0, 3))):
        holder = document
        while isinstance(holder, dict | list) and holder:
            key = draw(st.sampled_from(sorted(holder) if isinstance(holder, dict) else range(len(holder))))
            if not isinstance(holder[key], dict | list) or not holder[key] or draw(st.integers(0, 3)) == 0:
                _spoil(draw, holder, key)
                break
            holder = holder[key]
    return document


def _spoil(draw: st.DrawFn, holder: Any, key: Any) -> None:
    deed = draw(st.sampled_from(["replace", "remove", "add", "rename"]))
    if deed == "replace":
        holder[key] = draw(JSON)
    elif deed == "remove":
        del holder[key]
    elif isinstance(holder, list):
        holder.append(draw(JSON))
    elif deed == "add":
        holder[draw(st.text(max_size=5) | st.sampled_from(["x-note", "memory", "cpu", "name", "init"]))] = (
            draw(JSON)
        )
    else:
        holder[f"{key}{draw(st.sampled_from(['s', '_', ' ']))}"] = holder.pop(key)


NAMES = st.sampled_from(["a", "web-1", "db", "x" * 63, "0"])
NOTHING: dict[str, st.SearchStrategy[Any]] = {}
_BY_KIND: dict[str, list[Any]] = {
    "bytes": [0, "4Ki", "1.5Mi", 1],
    "bytes or max": ["max", "64Mi", "1Gi", "2G", 2**40],
    "CPUs": ["250m", 0.5, 0],
    "CPUs or max": ["max", 2, "1500m", 1.5],
    "duration": [0, "1ms", "1000us"],
    "weight": [1, 100, 10000],
    "count": [0, 5],
    "count or max": ["max", 1, 4096],
    "number or max": ["max", 4096, "1.5M"],
    "choice": ["auto", "image"],
    "true or false": [True, False],
    "list of numbers": ["0", 1, "0-3,8", "8,0-3"],
    "soft and hard limit": [5, "max", {"soft": 1}, {"hard": "max"}, {"soft": 1, "hard": 2}],
    "soft and hard limit in bytes": [5, "max", "8Mi", {"soft": "1Ki"}, {"soft": 1, "hard": "2Gi"}],
    "rate or max": ["max", "100Mbit", "1.5Gbit", "8000bit"],
    "list of devices": [
        [],
        [{"device": "/dev/vda", "readBps": "1Mi"}, {"device": "/dev/sda", "writeIops": 7}],
    ],
}


@st.composite
def resources(draw: st.DrawFn) -> dict[str, Any]:
    """A tree of resources in which no knob is above another."""
    out: dict[str, Any] = {}
    for knob in draw(st.lists(st.sampled_from(KNOBS), max_size=6, unique_by=lambda knob: knob.path)):
        group, key = knob.path.split(".", 1)
        out.setdefault(group, {})[key] = draw(st.sampled_from(_BY_KIND[knob.kind.name]))
    out.get("cpu", {}).pop("burst", None)
    if "high" in out.get("memory", {}):
        out["memory"]["high"] = draw(st.sampled_from(["max", "2Mi"]))
    return out


@st.composite
def manifests(draw: st.DrawFn) -> list[Any]:
    """Documents without anything wrong: an image, quotas, servers that use them."""
    names = draw(st.lists(NAMES, max_size=4, unique=True))
    quotas = draw(st.dictionaries(st.sampled_from(["small", "team"]), resources(), max_size=2))
    out = [
        _document("Image", "base", {"source": draw(st.sampled_from([{"host": {}}, {"directory": "rootfs"}]))})
    ]
    for name, given in quotas.items():
        if name == "team":
            given = {key: keys for key, keys in given.items() if key not in ("rlimits", "network", "disk")}
        out.append(_document("Quota", name, {"scope": "pool" if name == "team" else "server", **given}))
    networks = draw(st.lists(st.sampled_from(sorted(NETWORKS)), max_size=3, unique=True))
    out += [_document("Network", name, NETWORKS[name]) for name in networks]
    for i, name in enumerate(names):
        spec: dict[str, Any] = {
            "image": "base",
            "init": {"command": ["/bin/true", *draw(st.lists(TEXT, max_size=2))]},
        }
        optional: dict[str, st.SearchStrategy[Any]] = {
            "resources": resources(),
            "state": st.sampled_from(["Running", "Stopped"]),
            "hostname": st.sampled_from(["a.b.c", "A-1"]),
            "ephemeral": st.booleans(),
            "mounts": st.lists(MOUNTS, max_size=3, unique_by=lambda mount: mount["target"]),
            "security": st.fixed_dictionaries({}, optional={
                "readOnlyRoot": st.booleans(),
                "capabilities": st.fixed_dictionaries({}, optional={
                    "add": st.lists(st.sampled_from(CAPABILITIES[:20]), max_size=2),
                    "drop": st.lists(st.sampled_from(CAPABILITIES[20:]).map("cap_{}".format), max_size=2),
                }),
            }),
        }  # fmt: skip
        spec |= draw(st.fixed_dictionaries(NOTHING, optional=optional))
        if networks and draw(st.booleans()):
            spec |= draw(connected(networks, i))
        spec["init"] |= draw(st.fixed_dictionaries(NOTHING, optional=INIT))
        if draw(st.booleans()) and quotas:
            spec["quota"] = draw(st.sampled_from(sorted(quotas)))
        if i and draw(st.booleans()):
            spec["dependsOn"] = [{"name": draw(st.sampled_from(names[:i]))}]
        out.append(_document("Server", name, spec))
    return draw(st.permutations(out))


TEXT = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=8)
INIT: dict[str, st.SearchStrategy[Any]] = {
    "env": st.dictionaries(st.sampled_from(["A", "_b", "C3"]), TEXT, max_size=2),
    "user": st.sampled_from([0, "0:0", "www-data", "5:users"]),
    "stopSignal": st.sampled_from(["TERM", "sigint", 37, "RTMIN+3"]),
    "stopTimeout": st.sampled_from(["90s", 0, "1d", "1.5ms"]),
    "workingDir": st.sampled_from(["/", "/srv/x"]),
    "reaper": st.booleans(),
}
MOUNTS = st.one_of(
    st.fixed_dictionaries(
        {"type": st.just("tmpfs"), "target": st.sampled_from(["/t", "/t/a", "/dev/shm"])},
        optional={"size": st.sampled_from(["1Mi", 4096]), "mode": st.just("700"), "readOnly": st.booleans()},
    ),
    st.fixed_dictionaries(
        {
            "type": st.just("bind"),
            "target": st.sampled_from(["/t/b", "/b", "/b-c"]),
            "source": st.just("/srv"),
        },
        optional={
            "recursive": st.booleans(),
            "idMap": st.sampled_from(["auto", "host", "none", True, False]),
            "readOnly": st.booleans(),
        },
    ),
)


RULES = st.lists(
    st.fixed_dictionaries(
        {"protocol": st.sampled_from(["tcp", "udp"])},
        optional={
            "ports": st.lists(st.sampled_from([80, "443", "8000-8080"]), max_size=2),
            "peers": st.lists(st.sampled_from(["10.0.0.0/8", "FD20::1", "0.0.0.0/0"]), max_size=2),
        },
    ),
    max_size=2,
)
FIREWALL = st.fixed_dictionaries(NOTHING, optional={"ingress": RULES, "egress": RULES})
NETWORKS: dict[str, dict[str, Any]] = {
    "lan": {
        "subnets": ["10.20.0.0/24", "FD20:0::/64"],
        "mtu": 1400,
        "isolated": True,
        "domain": "Lan.Example.",
    },
    "plain": {"type": "bridge", "subnets": ["10.21.0.0/16"], "nat": False, "firewall": {"ingress": []}},
    "street": {"type": "macvlan", "parent": "eth0", "mode": "private", "subnets": ["192.0.2.0/24"]},
}


def connected(networks: list[str], number: int) -> st.SearchStrategy[dict[str, Any]]:
    """The keys of a server, one of several, that is in some of the networks."""
    interfaces = {
        "lan": {
            "name": "eth0",
            "addresses": ["auto", f"10.20.0.{10 + number}/24"],
            "mac": f"02:AA:00:00:00:0{number}",
        },
        "plain": {
            "name": "a-very-long-name.1",
            "gateway": False,
            "routes": [{"to": "10.9.0.0/16", "via": "10.21.0.1"}],
        },
        "street": {"name": "lan", "gateway": False, "addresses": []},
    }
    ports: list[Any] = [f"{8080 + number}:80", f"127.0.0.1:{number + 53}:53/udp", 7000 + number]
    ports += [f"[fd99::1]:{9000 + number}"] if "lan" in networks else []
    dns = {"nameservers": ["192.0.2.53", "FD20::53"], "search": ["A.example."], "options": ["ndots:2"]}
    filtered = {"ports": st.lists(st.sampled_from(ports), max_size=2, unique=True), "firewall": FIREWALL}
    return st.fixed_dictionaries(
        {"interfaces": st.just([{**interfaces[name], "network": name} for name in networks])},
        optional={"dns": st.just(dns), **({} if networks == ["street"] else filtered)},
    )


def _document(kind: str, name: str, spec: dict[str, Any]) -> dict[str, Any]:
    return {"apiVersion": "vsprov/v1", "kind": kind, "metadata": {"name": name}, "spec": spec}
