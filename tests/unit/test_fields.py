"""Reading and writing of the model's fields: lists that may be unset, short forms, items that are wrong."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from vsprov.manifest.schema import model_schema
from vsprov.model import fields
from vsprov.model.fields import Path, Section, many, mapping, one, strings, value
from vsprov.model.kinds import network
from vsprov.model.values.units import UnitError
from vsprov.plan.compare import applied, diff


def even(raw: Any) -> str:
    if int(raw) % 2:
        raise UnitError(f"{raw} is odd")
    return str(int(raw))


class Item(Section):
    size: str = value(doc="Size.", parse=even)
    host_ip: str | None = value(None, doc="Address.", name="hostIP")


class Inner(Section):
    numbers: tuple[str, ...] = strings(doc="Numbers.", each=even)


class Outer(Section):
    maybe: tuple[Item, ...] | None = many(Item, optional=True, doc="Items, if any are set.")
    items: tuple[Item, ...] = many(
        Item, expand=lambda raw: raw if isinstance(raw, dict) else {"size": raw}, doc="Items."
    )
    words: tuple[str, ...] = strings(("auto",), doc="Words.")
    inner: Inner = one(Inner, Inner(), doc="Inner.")


def read(raw: dict[str, Any]) -> tuple[Outer | None, list[tuple[Path, str]]]:
    found: list[tuple[Path, str]] = []
    outer = fields.read(Outer, raw, lambda path, error: found.append((path, str(error))))
    return outer, found


def test_a_list_that_is_not_set_differs_from_an_empty_one() -> None:
    unset, empty = fields.read(Outer, {}), fields.read(Outer, {"maybe": []})
    assert unset and unset.maybe is None and "maybe" not in fields.write(unset)
    assert empty and empty.maybe == () and fields.write(empty)["maybe"] == []
    for each in (unset, empty):
        assert fields.read(Outer, fields.write(each)) == each


def test_an_empty_list_stays_empty_where_the_default_is_not() -> None:
    outer = fields.read(Outer, {"words": []})
    assert outer and outer.words == () and fields.write(outer) == {"words": []}
    assert fields.read(Outer, fields.write(outer)) == outer


def test_an_object_without_keys_is_omitted_unless_that_is_not_its_default() -> None:
    assert fields.write(Outer()) == {"words": ["auto"]}


def test_each_item_that_is_wrong_is_reported_at_its_place() -> None:
    outer, found = read(
        {"items": [2, "3", {"size": 5}, {"size": "4", "hostIP": "x"}], "inner": {"numbers": [1, "02"]}}
    )
    assert found == [
        (("items", 1, "size"), "3 is odd"),
        (("items", 2, "size"), "5 is odd"),
        (("inner", "numbers", 0), "1 is odd"),
    ]
    assert outer == Outer(items=(Item(size="2"), Item(size="4", host_ip="x")), inner=Inner(numbers=("2",)))


def test_a_key_may_have_another_name_than_its_field() -> None:
    assert list(fields.keys(Item)) == ["size", "hostIP"]


def test_a_list_that_may_be_unset_has_no_default_in_the_schema() -> None:
    properties = model_schema(Outer)["properties"]
    assert "default" not in properties["maybe"] and properties["items"]["default"] == []
    assert properties["maybe"]["type"] == "array"


def test_setting_an_empty_list_is_a_difference() -> None:
    unset, empty = {"firewall": {}}, {"firewall": {"ingress": []}}
    assert diff.differences(unset, empty) == [("firewall.ingress", None, [])]
    assert diff.differences(empty, {"firewall": {"ingress": [{"protocol": "tcp"}]}}) == [
        ("firewall.ingress", [], ["tcp"])
    ]
    assert diff.differences({"mounts": []}, {}) == []


@pytest.mark.parametrize(
    ("port", "text"),
    [
        ({"hostPort": "80"}, "80/tcp"),
        ({"hostPort": "8000-8010", "port": "80-90", "protocol": "udp"}, "8000-8010:80-90/udp"),
        ({"hostPort": "80", "port": "8080", "hostIP": "127.0.0.1"}, "127.0.0.1:80:8080/tcp"),
        ({"hostPort": "80", "hostIP": "2001:db8::1"}, "[2001:db8::1]:80/tcp"),
    ],
)
def test_the_text_of_a_port_is_its_short_form(port: dict[str, str], text: str) -> None:
    assert network.port_text(port) == text
    assert network.expand_port(text) == {"protocol": "tcp", **port}


def test_of_a_list_of_ports_or_rules_a_plan_shows_what_comes_and_goes() -> None:
    assert diff.texts("ports", ["80/tcp", "81/tcp"], ["82/tcp", "81/tcp"]) == ("", "- 80/tcp, + 82/tcp")
    assert diff.texts("ports", None, ["82/tcp"]) == ("", "+ 82/tcp")
    assert diff.texts("ports", ["1/tcp", "2/tcp"], ["2/tcp", "1/tcp"]) == ("1/tcp, 2/tcp", "2/tcp, 1/tcp")
    assert diff.texts("firewall.egress", None, []) == ("unrestricted", "nothing")
    assert diff.texts("firewall.egress", ["tcp 80"], None) == ("tcp 80", "unrestricted")


class Watched(Section):
    often: int = value(5, doc="How often.")
    items: tuple[Item, ...] = many(Item, doc="Items.")
    labels: Mapping[str, str] = mapping(doc="Labels.")


class Command(Section):
    words: tuple[str, ...] = strings(doc="Words.")
    once: bool = value(False, doc="Once.", kept=True)


class Thing(Section):
    name: str = value("a", doc="Name.")
    command: Command = one(Command, Command(), doc="Command.")
    watched: Watched = one(Watched, Watched(), doc="Watched.", kept=True)
    maybe: Watched | None = one(Watched, None, doc="Watched too.", kept=True)


def test_the_keeper_gets_all_of_a_kept_key_and_only_the_kept_keys_of_others() -> None:
    watched = {"often": 5, "items": [], "labels": {}}
    assert fields.kept(Thing()) == {"command": {"once": False}, "watched": watched, "maybe": None}
    item = Item(size="2")
    changed = Thing(
        name="b",
        command=Command(words=("x",), once=True),
        watched=Watched(items=(item,)),
        maybe=Watched(labels={"a": "b"}),
    )
    assert fields.kept(changed) == {
        "command": {"once": True},
        "watched": {**watched, "items": [{"size": "2", "hostIP": None}]},
        "maybe": {**watched, "labels": {"a": "b"}},
    }


def test_records_differ_for_the_keeper_in_what_it_works_by() -> None:
    record = {"spec": {"image": "a", "init": {"oneshot": True}}}
    assert applied.kept_changed(record, {"spec": {"image": "a", "init": {"oneshot": False}}})
    assert not applied.kept_changed(record, {"spec": {"image": "b", "init": {"oneshot": True}}})
