"""delete, and objects that must not be removed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.verbs import HOST, asked
from tests.lab import Document, Lab, image, pool, quota, server, to_yaml

PREVENT = {"vsprov/deletion": "prevent"}
SAID = "it has the annotation vsprov/deletion: prevent"


def web(name: str = "web1", **spec: Any) -> Document:
    return server(name, **spec)


def protected(document: Document) -> Document:
    return {**document, "metadata": {**document["metadata"], "annotations": PREVENT}}


def everything(lab: Lab) -> list[str]:
    return sorted(lab.vsprov("get", "-o", "name").stdout.split())


# -- delete


@pytest.mark.vm_subset
def test_an_object_is_deleted_with_its_files_and_the_next_apply_creates_it_again(lab: Lab) -> None:
    documents = (HOST, pool("all"), web(quota="all"), web("web2"))
    lab.apply(*documents)
    lab.shell("web1", "echo gone > /root/note")
    done = lab.vsprov("delete", "server", "web1", "-y")
    assert "Done: 0 added, 0 changed, 1 destroyed" in done.stdout
    assert not lab.directory("web1").exists() and not lab.group("all/web1").exists()
    lab.vsprov("delete", "quota/all", "-y")
    assert everything(lab) == ["Image/host", "Server/web2"]
    lab.converge(*documents)
    assert not (lab.root("all/web1") / "root/note").exists()


def test_delete_asks_and_says_what_is_lost(lab: Lab) -> None:
    lab.apply(HOST, web())
    lab.shell("web1", "head -c 1048576 /dev/zero > /root/data")
    code, shown = asked(lab, ("delete", "server/web1"), lambda: "n\n")
    assert code == 130 and lab.init("web1")
    assert "Destroy these objects" in shown and "of written files" in shown


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["server", "web9"], 1, "Server/web9: not found"),
        (["servr", "web1"], 64, "delete servr: no such kind\n  hint: did you mean servers?"),
        (["server"], 64, "delete server: no names given"),
        (["image", "host"], 1, "Image/host: cannot be removed: used by Server/web1"),
        (["image/host", "server/web2"], 1, "Image/host: cannot be removed: used by Server/web1"),
    ],
)
def test_nothing_is_deleted_if_one_of_the_objects_cannot_be(
    lab: Lab, words: list[str], code: int, said: str
) -> None:
    lab.apply(HOST, web(), web("web2"))
    done = lab.vsprov("delete", *words, "-y", check=False)
    assert done.returncode == code and said in done.stderr
    assert everything(lab) == ["Image/host", "Server/web1", "Server/web2"]


def test_an_object_can_be_deleted_whatever_set_it_is_of(lab: Lab) -> None:
    lab.apply(HOST, web(), flags=("--set-name", "shop"))
    report = json.loads(lab.vsprov("delete", "server/web1", "image/host", "-y", "-o", "json").stdout)
    assert sorted(report["outcome"]["done"]) == ["Image/host", "Server/web1"]
    assert everything(lab) == []


# -- protection


@pytest.mark.vm_subset
@pytest.mark.parametrize("kind", ["Server", "Image", "Quota"])
def test_a_protected_object_is_not_removed_by_any_command(lab: Lab, kind: str, tmp_path: Path) -> None:
    documents = [HOST, pool("all"), web()]
    wanted = [protected(one) if one["kind"] == kind else one for one in documents]
    (one,) = (one for one in wanted if one["kind"] == kind)
    address = f"{kind}/{one['metadata']['name']}"
    lab.converge(*wanted)
    manifest = tmp_path / "all.yaml"
    manifest.write_text(to_yaml(*wanted))
    rest = to_yaml(server("other", state="Stopped"), *([HOST] if kind != "Image" else []))
    words: list[tuple[str, ...]] = [
        ("delete", address, "-y"),
        ("destroy", "--all", "-y"),
        ("destroy", str(manifest), "-y"),
    ]
    if kind == "Image":
        words.append(("image", "rm", "host"))
    for each in words:
        done = lab.vsprov(*each, check=False)
        assert done.returncode == 1 and (SAID in done.stderr or "used by" in done.stderr), done.stderr
    if kind != "Image":
        assert (
            f"{address}: cannot be removed: {SAID}"
            in lab.vsprov("apply", "-y", "--prune", "-", input=rest, check=False).stderr
        )
    assert everything(lab) == ["Image/host", "Quota/all", "Server/web1"]
    ((path, (before, after, _)),) = lab.differences(*documents).items()
    assert (before, after) == ("prevent", None)
    assert path == f"{address} /metadata/annotations/vsprov~1deletion"
    lab.converge(*documents)
    lab.vsprov("destroy", "--all", "-y")


def test_a_change_that_would_discard_the_files_of_a_protected_server_is_refused(lab: Lab) -> None:
    lab.apply(HOST, protected(web()))
    lab.shell("web1", "echo kept > /root/note")
    said = lab.refused(HOST, protected(web(ephemeral=True)))
    assert "spec.ephemeral would remove its files" in said and SAID in said
    assert lab.shell("web1", "cat /root/note") == "kept\n"
    lab.converge(HOST, web(ephemeral=True))


def test_a_protected_image_stays_protected_when_it_is_imported_again(lab: Lab, tmp_path: Path) -> None:
    (tmp_path / "root").mkdir()
    files = image("files", directory=str(tmp_path / "root"))
    lab.apply(protected(files))
    (tmp_path / "root/note").write_text("new\n")
    lab.vsprov("image", "pull", "files")
    assert lab.is_settled(protected(files))
    (tmp_path / "root/note").write_text("newer\n")
    lab.converge(protected(files))
    assert SAID in lab.vsprov("image", "rm", "files", check=False).stderr
    assert "files" not in lab.vsprov("image", "prune", "--all", "-y").stdout
    lab.apply(files)


def test_sets_protect_an_image_that_they_share_one_by_one(lab: Lab) -> None:
    def settled(document: Document, name: str) -> bool:
        return lab.is_settled(document, flags=("--set-name", name))

    lab.apply(protected(HOST), flags=("--set-name", "a"))
    lab.apply(HOST, flags=("--set-name", "b"))
    assert settled(protected(HOST), "a") and settled(HOST, "b")
    lab.vsprov("destroy", "-y", "--set-name", "b", "-", input=to_yaml(HOST))
    assert settled(protected(HOST), "a")
    assert SAID in lab.vsprov("destroy", "--all", "-y", check=False).stderr
    lab.apply(HOST, flags=("--set-name", "a"))
    lab.vsprov("destroy", "--all", "-y")


def test_the_manifest_that_get_prints_protects_the_same_objects(lab: Lab) -> None:
    lab.apply(protected(HOST), protected(pool("all")), protected(web()))
    now = lab.vsprov("get", "-o", "yaml").stdout
    plan: Any = json.loads(lab.vsprov("plan", "-o", "json", "-", input=now).stdout)
    assert plan["resource_changes"] == []
    lab.apply(HOST, pool("all"), web())


@pytest.mark.parametrize(
    ("document", "said"),
    [
        (
            {**web(), "metadata": {"name": "a", "annotations": {"vsprov/deletion": "no"}}},
            "set prevent, or omit",
        ),
        (protected(quota("small")), "annotate the servers"),
    ],
)
def test_an_annotation_that_would_do_nothing_is_reported(lab: Lab, document: Document, said: str) -> None:
    done = lab.vsprov("validate", "-", input=to_yaml(HOST, document), check=False)
    assert said in done.stderr
