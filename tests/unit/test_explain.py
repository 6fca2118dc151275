"""explain: keys of manifests, from the schema."""

from __future__ import annotations

import json

import pytest

from tests.unit.cli import Cli
from vsprov.manifest.explain import find
from vsprov.model.objects import KINDS


def test_a_key_is_explained_by_its_type_default_and_cost(cli: Cli) -> None:
    told = cli("explain", "server.init.stopTimeout")
    assert told.code == 0
    assert told.out.splitlines() == [
        "Kind: Server",
        "Key:  spec.init.stopTimeout",
        "Type: text or number",
        "Default: 10s",
        "Cost of a change: live",
        "",
        "Time to wait for the server to stop before it is killed. Defaults to 10s, or to",
        "90s if style is not exec.",
    ]


def test_a_map_is_explained_with_its_keys_and_spec_can_be_omitted(cli: Cli) -> None:
    assert cli("explain", "servers.spec.mounts") == cli("explain", "server.mounts")
    told = cli("explain", "server.mounts").out
    assert "  target  <text, required>\n      Mount point in the server." in told
    assert "Key:  spec.mounts[].source\n" in cli("explain", "server.mounts[].source").out
    assert cli("explain", "server.mounts[].source") == cli("explain", "server.mounts.source")
    assert "Key:  metadata.labels\n" in cli("explain", "server.metadata.labels").out


@pytest.mark.parametrize("kind", KINDS)
def test_every_key_of_every_kind_can_be_explained(cli: Cli, kind: str) -> None:
    left = [find(kind, "")]
    while left:
        key = left.pop()
        assert find(kind, key.path).schema == key.schema
        left += key.children()
    told = cli("explain", kind, "--recursive")
    assert told.code == 0 and told.out.count("<") >= 5


def test_the_schema_of_a_key_can_be_had_as_json(cli: Cli) -> None:
    assert json.loads(cli("explain", "server.hostname", "-o", "json").out)["type"] == "string"


@pytest.mark.parametrize(
    ("key", "said"),
    [
        (
            "server.mount",
            "Server.spec has no key mount; did you mean 'mounts'?\n  hint: vsprov explain server.spec",
        ),
        ("server.init.comand", "Server.spec.init has no key comand; did you mean 'command'?"),
        ("server.hostname.x", "Server.spec.hostname has no key x\n"),
        ("srver", "explain srver: no such kind\n  hint: did you mean servers?"),
        ("zzz", "hint: choose from server, image"),
        (".x", "explain .x: no kind given"),
    ],
)
def test_what_does_not_exist_is_refused_with_a_suggestion(cli: Cli, key: str, said: str) -> None:
    told = cli("explain", key)
    assert told.code == 64 and said in told.err
