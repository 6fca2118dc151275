"""Commands of libnftables-json(5) as text for nft(8).

nft 1.0.6, that of Debian 12, lists in JSON what it does not read in JSON, such as maps to an address and a
port. It reads all of it as text.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any


def command(of: Mapping[str, Any]) -> str:
    """The text of {"add": object}, {"add": {"element": …}}, or the same with "delete"."""
    verb, each = next(iter(of.items()))
    kind, body = next(iter(each.items()))
    if kind == "element":
        place = f"{body['family']} {body['table']} {body['name']}"
        return f"{verb} element {place} {_elements(body, body['elem'])}"
    if kind == "table":
        return f"{verb} table {body['family']} {body['name']}"
    assert verb == "add", of
    return _add(kind, body)


def _add(kind: str, body: Mapping[str, Any]) -> str:
    place = f"{body['family']} {body['table']}"
    if kind == "rule":
        return f"add rule {place} {body['chain']} {' '.join(map(_statement, body['expr']))}"
    if kind == "counter":
        return f"add counter {place} {body['name']} {{ }}"
    if kind == "chain":
        return f"add chain {place} {body['name']} {_hook(body)}".rstrip()
    return f"add {kind} {place} {body['name']} {{ {_definition(body)} }}"


def _hook(body: Mapping[str, Any]) -> str:
    if "hook" not in body:
        return ""
    return f"{{ type {body['type']} hook {body['hook']} priority {body['prio']}; policy {body['policy']}; }}"


def _definition(body: Mapping[str, Any]) -> str:
    out = [_type(body) + (f" : {body['map']}" if "map" in body else "")]
    if "flags" in body:
        # The listing does not show this flag.
        out.append(f"flags {','.join(body['flags'])}" + (",dynamic" if "timeout" in body["flags"] else ""))
    out += [f"{key} {body[key]}{unit}" for key, unit in (("timeout", "s"), ("size", "")) if key in body]
    if body.get("elem"):
        out.append(f"elements = {_elements(body, body['elem'])}")
    return "; ".join(out) + ";"


def _types(body: Mapping[str, Any]) -> list[str]:
    return [body["type"]] if isinstance(body["type"], str) else list(body["type"])


def _type(body: Mapping[str, Any]) -> str:
    types = _types(body)
    if "integer" in types:  # of neighbors: a part of the packet that has no name
        return "typeof iifname . @th,64,128"
    return f"type {' . '.join(types)}"


def _elements(of: Mapping[str, Any], found: Iterable[Any]) -> str:
    types = _types(of)
    if "map" in of:
        return f"{{ {', '.join(f'{_key(types, key)} : {_target(value)}' for key, value in found)} }}"
    return f"{{ {', '.join(_key(types, key) for key in found)} }}"


def _key(types: list[str], key: Any) -> str:
    parts = key["concat"] if isinstance(key, dict) and "concat" in key else [key]
    quoted = (
        f'"{part}"' if kind == "ifname" else _value(part) for kind, part in zip(types, parts, strict=True)
    )
    return " . ".join(quoted)


def _target(value: Any) -> str:
    return _statement(value) if isinstance(value, dict) and "concat" not in value else _value(value)


def _statement(one: Mapping[str, Any]) -> str:
    kind, body = next(iter(one.items()))
    match kind:
        case "match":
            between = " != " if body["op"] == "!=" else " "
            return f"{_value(body['left'])}{between}{_value(body['right'])}"
        case "vmap":
            return f"{_value(body['key'])} vmap {_value(body['data'])}"
        case "counter":
            return f"counter name {body}"
        case "jump" | "goto":
            return f"{kind} {body['target']}"
        case "dnat":
            target = body["addr"]["map"]
            return f"dnat {body['family']} to {_value(target['key'])} map {target['data']}"
        case "set":
            limits = "".join(f" {_statement(each)}" for each in body.get("stmt", ()))
            return f"{body['op']} {body['set']} {{ {_value(body['elem'])}{limits} }}"
        case "limit":
            over = "over " if body.get("inv") else ""
            return f"limit rate {over}{body['rate']}/{body['per']} burst {body['burst']} packets"
    return str(kind)


def _value(one: Any) -> str:
    if isinstance(one, str | int):
        return str(one)
    if isinstance(one, list):
        return ",".join(map(_value, one))
    kind, body = next(iter(one.items()))
    match kind:
        case "meta":
            return f"meta {body['key']}"
        case "payload" if "base" in body:
            return f"@{body['base']},{body['offset']},{body['len']}"
        case "payload" | "exthdr":
            return f"{body['protocol' if kind == 'payload' else 'name']} {body['field']}"
        case "ct":
            return f"ct {body['key']}"
        case "fib":
            return f"fib {' . '.join(body['flags'])} {body['result']}"
        case "concat":
            return " . ".join(map(_value, body))
        case "prefix":
            return f"{body['addr']}/{body['len']}"
        case "range":
            return f"{body[0]}-{body[1]}"
        case "&":
            return f"{_value(body[0])} & {body[1]}"
        case "elem":
            return f"{_value(body['val'])} timeout {body['timeout']}s"
        case "set":
            return f"{{ {', '.join(map(_member, body))} }}"
    raise ValueError(f"an expression that no rule of ours has: {one}")


def _member(one: Any) -> str:
    """An element of an anonymous set or map of verdicts."""
    return f"{_value(one[0])} : {_statement(one[1])}" if isinstance(one, list) else _value(one)
