"""What servers do where they do not say it themselves: their image's words, then those for every server."""

from __future__ import annotations

from typing import Any

import pytest

from vsprov.model.defaults import init_of, with_image_defaults
from vsprov.model.kinds.sections.init import Init
from vsprov.model.sources import Defaults

CONFIG = {
    "entrypoint": ["/entry", "-e"], "command": ["serve"], "env": {"A": "image", "B": "image"},
    "user": "app", "workingDir": "/srv", "stopSignal": "SIGQUIT",
}  # fmt: skip
ENTRY, SERVE = ("/entry", "-e"), ("serve",)


@pytest.mark.parametrize(
    ("init", "config", "command"),
    [
        ({}, {}, ()),
        ({}, CONFIG, (*ENTRY, *SERVE)),
        ({"args": ("other", "x")}, CONFIG, (*ENTRY, "other", "x")),
        ({"command": ("/own",)}, CONFIG, ("/own",)),
        ({"command": ("/own",), "args": ("x",)}, CONFIG, ("/own", "x")),
        ({"args": ("x",)}, {"command": ["serve"]}, ("x",)),
        ({}, {"entrypoint": ["/entry"]}, ("/entry",)),
        ({}, {"command": ["serve"]}, ("serve",)),
        ({"command": ("/own",)}, {}, ("/own",)),
        ({"args": ("x",)}, {}, ("x",)),
    ],
)
def test_a_command_replaces_all_of_the_images_and_args_only_its_command(
    init: dict[str, Any], config: dict[str, Any], command: tuple[str, ...]
) -> None:
    found = init_of(Init(**init), config)
    assert (found.command, found.args) == (command, ())


def test_what_a_server_says_itself_wins_over_its_image() -> None:
    own = Init(env={"B": "own", "C": "own"}, user="0:0", working_dir="/", stop_signal="HUP")
    found = init_of(own, CONFIG)
    assert found.env == {"A": "image", "B": "own", "C": "own"}
    assert (found.user, found.working_dir, found.stop_signal) == ("0:0", "/", "HUP")


def test_what_a_server_leaves_open_its_image_says() -> None:
    found = init_of(Init(), CONFIG)
    assert found.env == CONFIG["env"]
    assert (found.user, found.working_dir, found.stop_signal) == ("app", "/srv", "QUIT")


def test_what_both_leave_open_is_the_same_for_every_server() -> None:
    found = init_of(Init(), {})
    assert (found.env, found.user, found.working_dir, found.stop_signal) == ({}, "0:0", "/", "TERM")


@pytest.mark.parametrize("signal", ["QUIT", "SIGQUIT", "3"])
def test_the_stop_signal_of_an_image_may_be_written_as_docker_lets_it(signal: str) -> None:
    assert init_of(Init(), {"stopSignal": signal}).stop_signal == "QUIT"


def test_an_init_that_says_everything_is_the_same_on_any_image() -> None:
    once = init_of(Init(), CONFIG)
    assert init_of(once, {}) == once


# ---- images built on others


def test_an_image_without_defaults_of_its_own_has_those_of_the_one_it_is_built_on() -> None:
    assert with_image_defaults(CONFIG, Defaults()) == CONFIG


def test_the_command_of_a_built_image_replaces_the_entrypoint_as_well() -> None:
    found = with_image_defaults(CONFIG, Defaults(command=("/new", "x")))
    assert "entrypoint" not in found and found["command"] == ["/new", "x"]
    assert init_of(Init(), found).command == ("/new", "x")


def test_each_default_of_a_built_image_replaces_its_own_kind_and_env_adds_to_the_other() -> None:
    own = Defaults(env={"B": "built", "C": "built"}, working_dir="/new", user="7", stop_signal="SIGINT")
    assert with_image_defaults(CONFIG, own) == {
        **CONFIG, "env": {"A": "image", "B": "built", "C": "built"},
        "workingDir": "/new", "user": "7", "stopSignal": "SIGINT",
    }  # fmt: skip
    assert with_image_defaults({}, own)["env"] == {"B": "built", "C": "built"}


def test_the_configuration_of_the_image_below_stays_as_it_is() -> None:
    below = {**CONFIG, "env": dict(CONFIG["env"])}  # type: ignore[call-overload]
    with_image_defaults(below, Defaults(command=("x",), env={"A": "new"}, user="1"))
    assert below == CONFIG
