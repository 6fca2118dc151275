"""validate, render, schema, and the project file: what they print, and how they end."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

import pytest

from tests.features import requires
from tests.unit.cli import SERVER, Cli
from vsprov.engine.desired import lockfile, project
from vsprov.errors import ManifestError, UsageError
from vsprov.manifest import load as manifests
from vsprov.model.kinds.image import Image

WRONG = SERVER.replace("memory: {max", "memory: {limt").replace("tier: web", "tier: web, zone: 5")


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Cli]:
    monkeypatch.setenv("VSPROV_INSTANCE", "vt-nowhere")
    monkeypatch.setenv("VSPROV_ROOT", "/nonexistent/vt-nowhere")
    monkeypatch.chdir(tmp_path)
    before = signal.getsignal(signal.SIGTERM)
    yield Cli(capsys)
    signal.signal(signal.SIGTERM, before)


@pytest.fixture
def right(tmp_path: Path) -> str:
    (tmp_path / "right.yaml").write_text(SERVER)
    return "right.yaml"


@pytest.fixture
def wrong(tmp_path: Path) -> str:
    (tmp_path / "wrong.yaml").write_text(WRONG)
    return "wrong.yaml"


# -- validate


def test_a_right_manifest_is_valid(cli: Cli, right: str) -> None:
    told = cli("validate", right)
    assert (told.code, told.out, told.err) == (0, "Valid: 1 server, 1 image.\n", "")
    assert cli("validate", "-q", right).out == ""


def test_every_error_is_told_with_its_place_and_hint(cli: Cli, wrong: str) -> None:
    told = cli("validate", wrong)
    assert (told.code, told.out) == (65, "")
    lines = told.err.splitlines()
    assert lines[0].startswith("wrong.yaml:9:") and "Server/web1: metadata.labels.zone" in lines[0]
    assert any(
        line.startswith("wrong.yaml:12:24: Server/web1: spec.resources.memory.limt: ") for line in lines
    )
    assert lines[-1] == "2 errors"


def test_the_same_errors_end_every_verb_that_reads_a_manifest(cli: Cli, wrong: str) -> None:
    told = cli("render", wrong)
    assert (told.code, told.out) == (65, "")
    assert told.err.splitlines()[0] == cli("validate", wrong).err.splitlines()[0]


def test_json_has_every_problem_with_its_place(cli: Cli, wrong: str, right: str) -> None:
    told = cli("validate", wrong, "-o", "json")
    assert (told.code, told.err) == (65, "")
    report = told.json()
    assert (report["valid"], report["errorCount"], report["warningCount"]) == (False, 2, 0)
    second = report["problems"][1]
    assert (second["file"], second["line"], second["column"]) == ("wrong.yaml", 12, 24)
    assert (second["subject"], second["path"]) == ("Server/web1", "spec.resources.memory.limt")
    assert cli("validate", right, "-o", "json").json() == {
        "valid": True,
        "errorCount": 0,
        "warningCount": 0,
        "problems": [],
    }


def test_sarif_has_a_result_for_every_problem(cli: Cli, wrong: str) -> None:
    report = cli("validate", wrong, "-o", "sarif").json()
    assert report["version"] == "2.1.0"
    (run,) = report["runs"]
    assert [result["level"] for result in run["results"]] == ["error", "error"]
    place = run["results"][1]["locations"][0]["physicalLocation"]
    assert place == {
        "artifactLocation": {"uri": "wrong.yaml"},
        "region": {"startLine": 12, "startColumn": 24},
    }
    assert {result["ruleId"] for result in run["results"]} == {
        rule["id"] for rule in run["tool"]["driver"]["rules"]
    }


def test_junit_has_a_case_for_every_file(cli: Cli, wrong: str, right: str) -> None:
    report = ElementTree.fromstring(cli("validate", right, "-o", "junit").out)
    assert [(case.get("name"), len(case)) for case in report.iter("testcase")] == [("right.yaml", 0)]
    report = ElementTree.fromstring(cli("validate", wrong, "-o", "junit").out)
    (suite,) = report
    assert (suite.get("tests"), suite.get("failures")) == ("1", "1")
    (failure,) = report.iter("failure")
    assert failure.text and "spec.resources.memory.limt" in failure.text


def test_warnings_are_told_and_do_not_fail(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "m.yaml").write_text(SERVER.replace("64Mi", "64M"))
    told = cli("validate", "m.yaml")
    assert told.code == 0
    assert told.err.startswith("warning: m.yaml:12:24: Server/web1: spec.resources.memory.max: ")
    assert told.out == "Valid: 1 server, 1 image; 1 warning.\n"
    report = cli("validate", "m.yaml", "-o", "json").json()
    assert (report["valid"], report["warningCount"]) == (True, 1)


def test_what_a_manifest_says_cannot_control_the_terminal(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "m.yaml").write_text('apiVersion: vsprov/v1\nkind: "\\e]0;owned\\a\\u202eSever"\n')
    told = cli("validate", "m.yaml")
    assert told.code == 65
    assert "\x1b" not in told.err and "\x07" not in told.err and "\u202e" not in told.err
    assert "owned" in told.err


def test_a_manifest_can_also_be_given_by_an_option(cli: Cli, right: str, wrong: str) -> None:
    assert cli("validate", "-f", right) == cli("validate", right)
    assert cli("validate", "--filename", right, "-f", wrong) == cli("validate", right, wrong)
    assert cli("validate", "-f", right, wrong) == cli("validate", right, wrong)


def test_a_missing_file_is_named(cli: Cli) -> None:
    told = cli("validate", "nothing.yaml")
    assert told.code == 65
    assert told.err.startswith("nothing.yaml: ") and "No such file or directory" in told.err


# -- render


def test_render_prints_the_manifest_with_every_default(cli: Cli, right: str) -> None:
    told = cli("render", right)
    assert (told.code, told.err) == (0, "")
    assert "  hostname: web1\n" in told.out and "    stopTimeout: 10s\n" in told.out
    documents = cli("render", right, "-o", "json").json()["items"]
    assert manifests.load_documents(documents) == manifests.load([right])


def test_what_render_prints_renders_to_itself(cli: Cli, right: str, tmp_path: Path) -> None:
    once = cli("render", right).out
    (tmp_path / "again.yaml").write_text(once)
    assert cli("render", "again.yaml").out == once
    assert "max: 64Mi" in once and "size: 64Gi" in once


def test_render_takes_values_for_templates(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "t.yaml.j2").write_text(SERVER.replace("web1", "{{ name }}").replace("64Mi", "{{ size }}"))
    (tmp_path / "values.yaml").write_text("name: of-file\nsize: 1Mi\n")
    documents = cli(
        "render", "t.yaml.j2", "--values", "values.yaml", "--set", "name=of-line", "-o", "json"
    ).json()["items"]
    assert documents[1]["metadata"]["name"] == "of-line"
    assert documents[1]["spec"]["resources"] == {"memory": {"max": 2**20}}


def test_an_image_that_is_elsewhere_is_a_warning_wherever_it_is_validated(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "m.yaml").write_text(SERVER.partition("---")[2])
    (tmp_path / "images").mkdir()
    for stored in ("other", "host"):
        (tmp_path / f"images/{stored}.json").write_text("{}")
        monkeypatch.setenv("VSPROV_ROOT", str(tmp_path))
        told = cli("validate", "m.yaml")
        assert (told.code, told.out) == (0, "Valid: 1 server; 1 warning.\n")
        assert told.err == (
            "warning: m.yaml:6:3: Server/web1: spec.image: "
            "Image/host is not defined here; apply requires it in the store\n"
        )
    assert cli("render", "m.yaml").code == 0
    (tmp_path / "m.yaml").write_text(SERVER.replace("image: host", "image: host\n  quota: none"))
    assert "Quota/none not found" in cli("validate", "m.yaml").err


def test_values_that_are_not_there_are_called_values(cli: Cli, right: str) -> None:
    told = cli("render", right, "--values", "none.yaml")
    assert (told.code, told.err) == (65, "none.yaml: read the values: No such file or directory\n")


def test_explain_tells_where_each_value_comes_from(cli: Cli, right: str) -> None:
    lines = cli("render", right, "--explain").out.splitlines()
    assert "Server/web1: spec.resources.memory.max = 64Mi  # manifest (right.yaml:12:24)" in lines
    assert "Server/web1: spec.hostname = web1  # default" in [line.partition(" (")[0] for line in lines]
    rows = cli("render", right, "--explain", "-o", "json").json()
    assert {"address", "path", "value", "origin"} == set(rows[0])


# -- schema


@pytest.mark.parametrize("kind", ["manifest", "server", "Servers", "image", "quota", "plan"])
def test_every_schema_is_json(cli: Cli, kind: str) -> None:
    assert cli("schema", kind).json()["$schema"] == "https://json-schema.org/draft/2020-12/schema"


def test_the_plan_schema_is_a_schema(cli: Cli) -> None:
    import jsonschema

    jsonschema.Draft202012Validator.check_schema(cli("schema", "plan").json())


# -- the project file, init


@pytest.fixture
def two_projects(tmp_path: Path) -> Path:
    """The folders `shop` and `bank`, which are projects, and `loose`, which is none."""
    for name in ("shop", "bank", "loose"):
        (tmp_path / name / "servers/deep").mkdir(parents=True)
        if name != "loose":
            (tmp_path / name / "vsprov.yaml").write_text(f"set: {name}\n")
        for place in (".", "servers", "servers/deep"):
            (tmp_path / name / place / "m.yaml").write_text(SERVER)
    (tmp_path / "link").symlink_to("shop/servers")
    return tmp_path


@pytest.mark.parametrize("here", ["shop", "shop/servers", "bank", "loose", "."])
def test_the_set_is_that_of_the_project_around_the_file_wherever_the_command_is_run(
    two_projects: Path, monkeypatch: pytest.MonkeyPatch, here: str
) -> None:
    monkeypatch.chdir(two_projects / here)
    for name, owner in (("shop", "shop"), ("bank", "bank"), ("loose", "default")):
        for file in ("m.yaml", "servers/m.yaml", "servers/deep/m.yaml", "servers/../m.yaml"):
            path = two_projects / name / file
            assert project.owner_set(None, [str(path)]) == owner
            assert project.owner_set(None, [os.path.relpath(path)]) == owner
            assert project.owner_set("given", [str(path)]) == "given"
    assert project.owner_set(None, [os.path.relpath(two_projects / "link/m.yaml")]) == "shop"
    assert project.owner_set(None, ["-"]) == "default"
    assert project.owner_set(None, []) == "default"


def test_manifests_of_several_sets_need_a_set_name(two_projects: Path) -> None:
    shop, bank, loose = (str(two_projects / name / "servers/m.yaml") for name in ("shop", "bank", "loose"))
    for files, told in (
        ((shop, bank), f"{shop} belongs to {two_projects}/shop/vsprov.yaml (set shop), {bank} to "
                       f"{two_projects}/bank/vsprov.yaml (set bank)"),
        ((shop, loose), f"{shop} belongs to {two_projects}/shop/vsprov.yaml (set shop), {loose} to no "),
        (("-", shop), f"standard input belongs to no project (set default), {shop} to "),
    ):  # fmt: skip
        for each in (files, (files[0], *files)):
            with pytest.raises(UsageError) as refused:
                project.owner_set(None, each)
            assert str(refused.value).startswith(f"manifests of different sets: {told}")
        assert project.owner_set("one", files) == "one"
    (two_projects / "bank/vsprov.yaml").write_text("set: shop\n")
    assert project.owner_set(None, [shop, bank]) == "shop"


def test_a_project_inside_another_counts_for_its_own_files(two_projects: Path) -> None:
    (two_projects / "vsprov.yaml").write_text("set: all\n")
    assert project.owner_set(None, [str(two_projects / "shop/servers/m.yaml")]) == "shop"
    assert project.owner_set(None, [str(two_projects / "loose/servers/m.yaml")]) == "all"


def test_a_project_file_of_another_user_is_refused(
    two_projects: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    requires("root")
    monkeypatch.delenv("SUDO_UID", raising=False)
    files = [str(two_projects / "shop/servers/m.yaml")]
    os.chown(two_projects / "shop/vsprov.yaml", 65534, 65534)
    with pytest.raises(
        UsageError, match=r"vsprov.yaml: the project file belongs to another user \(UID 65534"
    ):
        project.owner_set(None, files)
    monkeypatch.setenv("SUDO_UID", "65534")
    assert project.owner_set(None, files) == "shop"
    monkeypatch.delenv("SUDO_UID")
    os.chown(two_projects / "shop/servers", 65534, 65534)
    assert project.owner_set(None, files) == "shop"


def test_the_nearest_lock_file_up_to_the_projects_folder_counts(two_projects: Path) -> None:
    def digest_of(*files: str) -> str | None:
        manifest = manifests.load([str(two_projects / file) for file in files])
        (found,) = lockfile.locked(manifest, must=False)
        assert isinstance(found.spec, Image) and found.spec.source.oci is not None
        return found.spec.source.oci.digest

    image = (
        "apiVersion: vsprov/v1\nkind: Image\nmetadata: {name: a}\nspec: {source: {oci: {ref: a.test/a:1}}}\n"
    )
    for name in ("shop", "loose"):
        (two_projects / name / "servers/m.yaml").write_text(image)
        (two_projects / name / "vsprov.lock.yaml").write_text(
            f"images: {{'a.test/a:1': 'sha256:{'1' * 64}'}}\n"
        )
    assert digest_of("shop/servers/m.yaml") == f"sha256:{'1' * 64}"
    assert digest_of("loose/servers/m.yaml") is None
    nearer = two_projects / "shop/servers/vsprov.lock.yaml"
    nearer.write_text(f"images: {{'a.test/a:1': 'sha256:{'2' * 64}'}}\n")
    assert digest_of("shop/servers/m.yaml") == f"sha256:{'2' * 64}"
    (two_projects / "shop/m.yaml").write_text("")
    with pytest.raises(
        ManifestError, match=r"a.test/a:1: has another digest than in .*servers/vsprov.lock.yaml"
    ):
        digest_of("shop/servers/m.yaml", "shop/m.yaml")


def test_a_key_that_a_project_file_does_not_have_is_told_with_its_place(tmp_path: Path) -> None:
    (tmp_path / "vsprov.yaml").write_text("x-owner: me\nset: a\nsett: b\n")
    with pytest.raises(ManifestError) as refused:
        project.owner_set(None, [str(tmp_path / "m.yaml")])
    assert str(refused.value) == f"{tmp_path}/vsprov.yaml:3:1: sett: unknown key; did you mean 'set'?"


@pytest.mark.parametrize("text", ["[]", "set: 5", "set: {a: b}", "set: a\nset: b"])
def test_a_project_file_that_is_none_is_an_error_of_the_manifest(text: str, tmp_path: Path) -> None:
    (tmp_path / "vsprov.yaml").write_text(text)
    with pytest.raises(ManifestError):
        project.owner_set(None, [str(tmp_path / "m.yaml")])


@pytest.mark.parametrize("name", ["", "A", "a/b", "a b", "-a", "a\n"])
def test_the_name_of_a_set_is_checked(name: str, tmp_path: Path) -> None:
    (tmp_path / "vsprov.yaml").write_text(json.dumps({"set": name or "-"}))
    with pytest.raises(UsageError, match="is not a valid name"):
        project.owner_set(None, [str(tmp_path / "m.yaml")])


def test_init_makes_a_repository_whose_manifest_is_valid(cli: Cli, tmp_path: Path) -> None:
    assert cli("init", "My Shop").code == 0
    made = {
        path.relative_to(tmp_path / "My Shop").as_posix()
        for path in (tmp_path / "My Shop").rglob("*")
        if path.is_file()
    }
    assert made == {"vsprov.yaml", "servers/web.yaml", "README.md", ".vsprov.schema.json", ".gitignore"}
    assert cli("validate", "My Shop/servers").out == "Valid: 1 server, 1 image, 1 quota.\n"
    assert cli("validate", "-R", "My Shop").out == "Valid: 1 server, 1 image, 1 quota.\n"
    assert project.owner_set(None, ["My Shop/servers/web.yaml"]) == "my-shop"
    first = (tmp_path / "My Shop/servers/web.yaml").read_text().splitlines()[0]
    assert first == "# yaml-language-server: $schema=../.vsprov.schema.json"


def test_init_never_overwrites(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("mine")
    told = cli("init", ".")
    assert told.code == 0
    assert "kept  ./README.md\n" in told.out
    assert (tmp_path / "README.md").read_text() == "mine"
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert cli("init", ".", "-q").out == ""
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_init_in_a_place_that_cannot_be_made_is_an_error(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    told = cli("init", "file/below")
    assert told.code == 1
    assert told.err.startswith("vsprov: ") and "file/below" in told.err
