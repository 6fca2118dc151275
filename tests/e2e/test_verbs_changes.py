"""changes: what a server has changed of its image."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.instance import own_instance
from tests.lab import Lab, busybox_image, image, server


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    top = busybox_image(tmp_path_factory.mktemp("image") / "busybox")
    for folder in ("srv/kept", "srv/emptied", "srv/replaced", "srv/gone", "srv/turned"):
        (top / folder).mkdir()
        (top / folder / "one").write_text("1")
        (top / folder / "two").write_text("2")
    with own_instance() as instance:
        made = Lab(instance)
        build = {"from": "busybox", "steps": [{"run": "rm /srv/gone/two; echo 3 > /srv/gone/three"}]}
        made.apply(image("busybox", directory=str(top)), image("built", build=build))
        yield made


def shown(lab: Lab, *words: str) -> list[str]:
    return lab.vsprov("changes", *words).stdout.splitlines()


def below_srv(lab: Lab, name: str) -> list[str]:
    return [line for line in shown(lab, name, "/srv")]


@pytest.mark.vm_subset
def test_added_changed_and_deleted_files_are_listed_while_the_server_runs_and_when_it_is_stopped(
    shared: Lab,
) -> None:
    shared.apply(server("web1", image="busybox"), flags=("--set-name", "web1"))
    assert below_srv(shared, "web1") == []
    script = """
    cd /srv; echo x > new; mkdir dir; ln -s new dir/link; mkfifo dir/pipe
    echo x >> kept/one; rm kept/two; rm -r emptied; rm -r replaced; mkdir replaced; echo x > replaced/one
    mv gone moved; rm -r turned; echo x > turned; echo x > temporary; rm temporary
    """
    shared.shell("web1", script)
    expected = [
        "C /srv",
        "A /srv/dir",
        "A /srv/dir/link",
        "A /srv/dir/pipe",
        "D /srv/emptied",
        "D /srv/gone",
        "C /srv/kept",
        "C /srv/kept/one",
        "D /srv/kept/two",
        "A /srv/moved",
        "A /srv/moved/one",
        "A /srv/moved/two",
        "A /srv/new",
        "C /srv/replaced",
        "D /srv/replaced/two",
        "C /srv/replaced/one",
        "C /srv/turned",
    ]
    assert below_srv(shared, "web1") == expected
    shared.vsprov("stop", "web1")
    assert below_srv(shared, "web1") == expected
    assert shown(shared, "web1", "/srv/kept/", "/srv/dir/pipe") == [
        "A /srv/dir/pipe",
        "C /srv/kept",
        "C /srv/kept/one",
        "D /srv/kept/two",
    ]
    items = json.loads(shared.vsprov("changes", "web1", "/srv/emptied", "-o", "json").stdout)["items"]
    assert items == [{"path": "/srv/emptied", "what": "deleted", "type": "directory"}]


def test_what_a_layer_of_the_image_has_deleted_is_added_when_the_server_makes_it(shared: Lab) -> None:
    shared.apply(server("web2", image="built"), flags=("--set-name", "web2"))
    shared.shell("web2", "cd /srv/gone; echo x > two; echo x > three; rm one")
    assert shown(shared, "web2", "/srv/gone") == [
        "C /srv/gone",
        "D /srv/gone/one",
        "C /srv/gone/three",
        "A /srv/gone/two",
    ]


def test_names_are_printed_on_one_line_and_in_full_as_json(shared: Lab) -> None:
    shared.apply(server("web3", image="busybox"), flags=("--set-name", "web3"))
    upper = shared.directory("web3") / "upper"
    (upper / "tmp").mkdir(exist_ok=True)
    os.mkdir(os.fsencode(upper / "tmp") + b"/a\n\x1b\xff")
    assert shown(shared, "web3", "/tmp")[-1:] == ["A /tmp/a\\n\\e\\xff"]
    items = json.loads(shared.vsprov("changes", "web3", "/tmp", "-o", "json").stdout)["items"]
    assert items[-1]["path"] == "/tmp/a\n\x1b\udcff"


def test_links_of_a_server_are_not_followed(shared: Lab, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("x")
    shared.apply(server("web4", image="busybox"), flags=("--set-name", "web4"))
    shared.shell("web4", f"ln -s {tmp_path} /srv/way; rm -r /srv/kept; ln -s {tmp_path} /srv/kept")
    assert below_srv(shared, "web4") == ["C /srv", "C /srv/kept", "A /srv/way"]


def test_a_server_nested_too_deep_is_an_error_and_no_crash(shared: Lab) -> None:
    shared.apply(server("web5", image="busybox"), flags=("--set-name", "web5"))
    shared.shell("web5", "cd /srv; for i in $(seq 400); do mkdir d; cd d; done")
    done = shared.vsprov("changes", "web5", check=False)
    assert done.returncode == 1 and "more than 256 nested directories" in done.stderr


def test_an_unknown_server_is_named(shared: Lab) -> None:
    done = shared.vsprov("changes", "nobody", check=False)
    assert done.returncode == 1 and "Server/nobody" in done.stderr
