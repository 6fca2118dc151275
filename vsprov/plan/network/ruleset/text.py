"""nft objects in the JSON of libnftables-json(5): small builders, and the canonical form of a table."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

Expression = Mapping[str, Any]
Object = Mapping[str, Any]

ACCEPT: Expression = {"accept": None}
DROP: Expression = {"drop": None}
RETURN: Expression = {"return": None}
MASQUERADE: Expression = {"masquerade": None}

_KINDS = ("table", "counter", "chain", "set", "map", "rule")
_VOLATILE = {"handle", "packets", "bytes"}


def table_name(instance: str) -> str:
    return f"vsprov-{instance}"


def meta(key: str) -> Expression:
    return {"meta": {"key": key}}


IIFNAME, OIFNAME, L4PROTO = meta("iifname"), meta("oifname"), meta("l4proto")


def payload(protocol: str, field: str) -> Expression:
    return {"payload": {"protocol": protocol, "field": field}}


ETHER_SOURCE, ETHER_TYPE = payload("ether", "saddr"), payload("ether", "type")
PORT = payload("th", "dport")


def source(family: int) -> Expression:
    return payload("ip" if family == 4 else "ip6", "saddr")


def destination(family: int) -> Expression:
    return payload("ip" if family == 4 else "ip6", "daddr")


def concat(*parts: Any) -> Expression:
    return {"concat": list(parts)}


def prefix(address: str, length: int) -> Expression:
    return {"prefix": {"addr": address, "len": length}}


def match(left: Expression, right: Any, op: str = "==") -> Expression:
    return {"match": {"op": op, "left": left, "right": right}}


def among(left: Expression, *values: Any) -> Expression:
    """Whether `left` is one of these values, which are in the order in which nft lists them."""
    return match(left, {"set": list(values)} if len(values) > 1 else values[0])


def verdicts(key: Expression, data: Any) -> Expression:
    return {"vmap": {"key": key, "data": data}}


def count(name: str) -> Expression:
    return {"counter": name}


def jump(chain: str) -> Expression:
    return {"jump": {"target": chain}}


def goto(chain: str) -> Expression:
    return {"goto": {"target": chain}}


def update(name: str, element: Any, *limits: Expression) -> Expression:
    """Add an element to a set with a timeout, or start its timeout anew; `limits` are counted per element."""
    return {
        "set": {"op": "update", "elem": element, "set": name, **({"stmt": list(limits)} if limits else {})}
    }


def has_state(*states: str) -> Expression:
    return match({"ct": {"key": "state"}}, list(states), "in")


TRANSLATED = match({"ct": {"key": "status"}}, "dnat", "in")  # the packet is for a published port
ANSWER = has_state("established", "related")


class Table:
    """A table under construction."""

    def __init__(self, family: str, name: str) -> None:
        self._place = {"family": family, "table": name}
        self._objects: list[Object] = [{"table": {"family": family, "name": name}}]

    def counters(self, *names: str) -> None:
        self._objects += [{"counter": {**self._place, "name": name}} for name in names]

    def set(self, name: str, of: str | Sequence[str], elements: Iterable[Any] = (), **more: Any) -> None:
        body = {**self._place, "name": name, "type": of}
        self._objects.append({"set": _with_elements(body, elements, more)})

    def map(
        self, name: str, of: str | Sequence[str], to: str, elements: Iterable[Any] = (), **more: Any
    ) -> None:
        body = {**self._place, "name": name, "type": of, "map": to}
        self._objects.append({"map": _with_elements(body, elements, more)})

    def base(self, name: str, hook: str, priority: int, kind: str = "filter") -> None:
        body = {**self._place, "name": name, "type": kind, "hook": hook, "prio": priority, "policy": "accept"}
        self._objects.append({"chain": body})

    def chain(self, name: str) -> None:
        self._objects.append({"chain": {**self._place, "name": name}})

    def rule(self, chain: str, *expressions: Expression) -> None:
        self._objects.append({"rule": {**self._place, "chain": chain, "expr": list(expressions)}})

    def objects(self) -> tuple[Object, ...]:
        return canonical(self._objects)


def _with_elements(body: dict[str, Any], elements: Iterable[Any], more: Mapping[str, Any]) -> dict[str, Any]:
    found = list(elements)
    return {**body, **more, **({"elem": found} if found else {})}


def canonical(objects: Iterable[Object]) -> tuple[Object, ...]:
    """Objects of one table without what differs from one listing to the next, in a fixed order.

    Elements of sets with a timeout are left out: they come and go with packets.
    """
    out = []
    for each in objects:
        kind, body = next(iter(each.items()))
        if kind not in _KINDS:
            continue
        clean = {key: value for key, value in body.items() if key not in _VOLATILE}
        if "timeout" in clean:
            clean.pop("elem", None)
        if "elem" in clean:
            clean["elem"] = sorted(clean["elem"], key=json.dumps)
        out.append({kind: clean})
    return tuple(sorted(out, key=_rank))


def _rank(each: Object) -> tuple[int, str]:
    kind, body = next(iter(each.items()))
    return _KINDS.index(kind), body["chain"] if kind == "rule" else body["name"]
