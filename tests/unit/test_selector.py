"""Label selectors, and what a selection takes along."""

from __future__ import annotations

import pytest

from vsprov.engine.desired.selector import parse, select
from vsprov.errors import UsageError
from vsprov.manifest import load as manifests

LABELS = {"tier": "web", "env": "prod", "example.org/ready": ""}


@pytest.mark.parametrize(
    ("selector", "selected"),
    [
        ("tier=web", True),
        ("tier==web", True),
        ("tier = web", True),
        ("tier=db", False),
        ("tier!=db", True),
        ("tier!=web", False),
        ("zone!=a", True),
        ("tier=web,env=prod", True),
        ("tier=web,env=test", False),
        ("tier in (web,api)", True),
        ("tier in ( api , db )", False),
        ("tier notin (db)", True),
        ("tier notin (web)", False),
        ("tier in (web,api),env!=test", True),
        ("tier", True),
        ("zone", False),
        ("!zone", True),
        ("!tier", False),
        ("example.org/ready", True),
        ("example.org/ready=", True),
    ],
)
def test_a_selector_selects_as_kubectl_does(selector: str, selected: bool) -> None:
    assert parse(selector)(LABELS) is selected


@pytest.mark.parametrize(
    "selector", ["", "=", "tier=", "a b", "tier in", "tier in web", "!tier=web", "a,,b", "tier>1", "tier=w b"]
)
def test_what_is_no_selector_is_refused(selector: str) -> None:
    if selector == "tier=":  # an empty value is a value
        assert parse(selector)({"tier": ""})
        return
    with pytest.raises(UsageError, match="not a selector"):
        parse(selector)


def _document(kind: str, name: str, spec: object, **labels: str) -> dict[str, object]:
    return {
        "apiVersion": "vsprov/v1",
        "kind": kind,
        "metadata": {"name": name, "labels": labels},
        "spec": spec,
    }


def test_a_selection_takes_the_images_and_quotas_of_its_servers_along_and_nothing_else() -> None:
    init = {"command": ["/bin/true"]}
    objects = manifests.load_documents(
        [
            _document("Image", "base", {"source": {"host": {}}}),
            _document("Image", "one", {"source": {"build": {"from": "base"}}}, tier="web"),
            _document("Image", "two", {"source": {"host": {}}}, tier="web"),
            _document("Quota", "shared", {"scope": "pool"}),
            _document("Quota", "other", {"scope": "pool"}, tier="web"),
            _document("Server", "a", {"image": "one", "quota": "shared", "init": init}, tier="web"),
            _document("Server", "b", {"image": "two", "init": init}, tier="db"),
        ]
    ).objects
    chosen = [one.address for one in select(objects, "tier=web")]
    assert chosen == ["Image/base", "Image/one", "Quota/shared", "Server/a"]
    assert select(objects, None) == objects
    with pytest.raises(UsageError, match="no server"):
        select(objects, "tier=none")
