"""What follows from the style of an init: defaults of other keys, command, signal, capabilities."""

from __future__ import annotations

import json
from typing import Any

import pytest

from vsprov.manifest.resolve import resolve
from vsprov.manifest.syntax.text import parse
from vsprov.model.defaults import init_of
from vsprov.model.fields import keys
from vsprov.model.kinds.sections.init import Init
from vsprov.model.kinds.sections.security import CapabilityChange, Security
from vsprov.model.kinds.server import Server
from vsprov.model.values import styles
from vsprov.model.values.names import DEFAULT_CAPABILITIES, HOST_CAPABILITIES

IMAGE = {"entrypoint": ["/entry"], "command": ["run"], "user": "app", "workingDir": "/srv", "env": {"A": "1"}}


def server(**spec: Any) -> Server:
    document = {
        "apiVersion": "vsprov/v1", "kind": "Server", "metadata": {"name": "a"}, "spec": {"image": "i", **spec}
    }  # fmt: skip
    documents, problems = parse(json.dumps(document), "m.yaml")
    items, more = resolve(documents)
    assert [*problems, *more] == []
    (item,) = items
    assert item.object and isinstance(item.object.spec, Server)
    return item.object.spec


def test_a_server_that_boots_has_time_to_stop_and_programs_in_it_may_gain_privileges() -> None:
    booting, plain = server(init={"style": "systemd"}), server(init={"command": ["x"]})
    assert (booting.init.stop_timeout, booting.security.no_new_privileges) == (90_000_000, False)
    assert (plain.init.stop_timeout, plain.security.no_new_privileges) == (10_000_000, True)


def test_what_the_manifest_of_a_server_that_boots_sets_wins() -> None:
    found = server(
        init={"style": "systemd", "stopTimeout": "5s"},
        security={"noNewPrivileges": True, "readOnlyRoot": True},
    )
    assert (found.init.stop_timeout, found.security) == (
        5_000_000,
        Security(no_new_privileges=True, read_only_root=True),
    )


def test_an_init_of_the_image_replaces_what_the_image_runs_by_itself() -> None:
    found = init_of(Init(style="systemd"), IMAGE)
    assert (found.command, found.user, found.working_dir) == (("/sbin/init",), "0:0", "/")
    assert (found.env, found.stop_signal) == ({"A": "1"}, "RTMIN+3")


def test_the_init_and_its_arguments_may_be_chosen() -> None:
    init = Init(style="systemd", command=("/lib/systemd/systemd",), args=("--unit=rescue",))
    assert init_of(init, IMAGE).command == ("/lib/systemd/systemd", "--unit=rescue")


def test_a_server_that_boots_keeps_all_capabilities_that_mean_anything_in_it() -> None:
    kept = set(Security().kept("systemd"))
    assert kept >= {"SYS_ADMIN", "SYS_BOOT", "NET_ADMIN", *DEFAULT_CAPABILITIES}
    assert not kept & HOST_CAPABILITIES
    less = Security(capabilities=CapabilityChange(drop=("NET_ADMIN",)))
    assert kept - set(less.kept("systemd")) == {"NET_ADMIN"}


@pytest.mark.parametrize("style", keys(Init)["style"].schema.get("enum", ()) or styles.COMMANDS)
def test_every_style_has_a_command_and_a_signal(style: str) -> None:
    assert style == "exec" or (styles.COMMANDS[style] and styles.STOP_SIGNALS[style])
