"""From paths to a manifest, and back to YAML."""

from __future__ import annotations

import io
import pathlib
import sys
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from tests.unit.manifest_documents import JSON, manifests, nearly_right
from vsprov.errors import ManifestError, Position, Problem, UsageError
from vsprov.manifest import files as files_module
from vsprov.manifest.load import Manifest, _parts, explain, load, load_documents, render
from vsprov.manifest.problems import dotted
from vsprov.manifest.syntax.dump import to_yaml
from vsprov.manifest.syntax.text import parse
from vsprov.model.kinds.server import Server

IMAGE = "apiVersion: vsprov/v1\nkind: Image\nmetadata: {name: i}\nspec: {source: {host: {}}}\n"
SERVER = """\
apiVersion: vsprov/v1
kind: Server
metadata: {name: NAME}
spec:
  image: i
  init: {command: [/bin/true]}
"""


@pytest.fixture
def folder(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> pathlib.Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def server(name: str) -> str:
    return SERVER.replace("NAME", name)


def wrong(*paths: str, **options: Any) -> list[str]:
    with pytest.raises(ManifestError) as caught:
        load(paths, **options)
    return [str(problem) for problem in caught.value.problems]


def test_objects_come_in_the_order_of_the_files(folder: pathlib.Path) -> None:
    (folder / "b.yaml").write_text(server("b") + "---\n" + server("a"))
    (folder / "a.yaml").write_text(IMAGE)
    manifest = load(["b.yaml", "a.yaml"])
    assert [one.address for one in manifest.objects] == ["Server/b", "Server/a", "Image/i"]
    assert manifest.files == ("b.yaml", "a.yaml")
    assert manifest.warnings == ()


def test_an_empty_manifest_is_one(folder: pathlib.Path) -> None:
    (folder / "a.yaml").write_text("# nothing yet\n")
    manifest = load(["a.yaml"])
    assert manifest.objects == ()
    assert manifest == Manifest()


def test_a_folder_is_read_with_what_is_below_it_only_when_asked(folder: pathlib.Path) -> None:
    (folder / "d" / "e").mkdir(parents=True)
    (folder / "d" / "i.yaml").write_text(IMAGE)
    (folder / "d" / "e" / "s.yaml").write_text(server("s"))
    assert [one.address for one in load(["d"]).objects] == ["Image/i"]
    assert {one.address for one in load(["d"], recursive=True).objects} == {"Image/i", "Server/s"}


def test_standard_input_is_a_file_whose_paths_start_here(
    folder: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = IMAGE.replace("{host: {}}", "{directory: root}") + "---\nkind: 5\n"
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text.encode())))
    assert wrong("-")[0].startswith("-:6:1: apiVersion: required key is missing")
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text[: text.index("---")].encode())))
    (image,) = load(["-"]).objects
    assert image.spec.source.directory == str(folder / "root")  # type: ignore[union-attr]


def test_the_digest_is_that_of_the_texts_wherever_they_are(folder: pathlib.Path) -> None:
    (folder / "a.yaml").write_text(IMAGE)
    (folder / "b.yaml").write_text(IMAGE)
    (folder / "c.yaml").write_text(IMAGE + "# more\n")
    (folder / "empty.yaml").write_text("")
    digests = [load([name]).digest for name in ("a.yaml", "b.yaml", "c.yaml", "empty.yaml")]
    assert digests[0] == digests[1]
    assert len({*digests}) == 3
    assert all(digest.startswith("sha256:") and len(digest) == 71 for digest in digests)


def test_the_digest_tells_where_one_text_ends(folder: pathlib.Path) -> None:
    (folder / "a.yaml").write_text("# a\n")
    (folder / "b.yaml").write_text("# b\n")
    (folder / "ab.yaml").write_text("# a\n# b\n")
    assert load(["a.yaml", "b.yaml"]).digest != load(["ab.yaml"]).digest


def test_a_template_is_rendered_with_values(folder: pathlib.Path) -> None:
    loop = "{% for n in names %}---\n" + SERVER.replace("NAME", "{{ n }}") + "{% endfor %}"
    (folder / "a.yaml.j2").write_text(IMAGE + loop)
    (folder / "v.yaml").write_text("names: [x, y]\n")
    manifest = load(["a.yaml.j2"], values=["v.yaml"])
    assert [one.name for one in manifest.objects] == ["i", "x", "y"]
    other = load(["a.yaml.j2"], sets=["names=zy"])
    assert [one.name for one in other.objects] == ["i", "z", "y"]
    assert other.digest != manifest.digest


def test_a_problem_in_a_template_is_placed_in_what_it_became(folder: pathlib.Path) -> None:
    (folder / "a.yaml.j2").write_text("{# one #}\n{# two #}\n" + server("{{ name }}"))
    (line,) = wrong("a.yaml.j2", sets=["name=x"])
    assert line == "a.yaml.j2 (rendered):7:3: Server/x: spec.image: Image/i not found"


def test_a_template_that_makes_half_a_character_is_a_problem(folder: pathlib.Path) -> None:
    (folder / "a.yaml.j2").write_text(server('"a{{ "\\ud800" }}"'))
    assert "a.yaml.j2 (rendered):3:20: character U+D800 is not allowed" in wrong("a.yaml.j2")


def test_any_file_is_a_template_when_asked(folder: pathlib.Path) -> None:
    (folder / "a.yaml").write_text(IMAGE + "---\n" + server("{{ name }}"))
    assert load(["a.yaml"], template=True, sets=["name=x"]).objects[1].name == "x"
    assert wrong("a.yaml", sets=["name=x"])


def test_a_malformed_set_is_an_error_of_the_command_line(folder: pathlib.Path) -> None:
    (folder / "a.yaml").write_text(IMAGE)
    with pytest.raises(UsageError):
        load(["a.yaml"], sets=["novalue"])


def test_all_problems_of_all_files_come_at_once_and_in_order(folder: pathlib.Path) -> None:
    (folder / "a.yaml").write_text(server("a") + "  colour: red\n---\n{\n")
    (folder / "b.yaml").write_bytes(b"\xff")
    (folder / "c.yaml").write_text(server("a"))
    lines = wrong("c.yaml", "b.yaml", "a.yaml")
    assert [line.split(": ")[0] for line in lines] == [
        "c.yaml:5:3",
        "b.yaml:1:1",
        "a.yaml:3:12",
        "a.yaml:5:3",
        "a.yaml:7:3",
        "a.yaml:10:1",
    ]


def test_no_more_than_two_hundred_problems_are_shown_and_errors_come_before_warnings(
    folder: pathlib.Path,
) -> None:
    warned = server("w") + "  resources: {memory: {max: 10M}}\n"
    (folder / "a.yaml").write_text(warned + "".join("---\n" + server(f"s{i}") for i in range(210)))
    lines = wrong("a.yaml")
    assert len(lines) == 201
    assert lines[0].startswith("a.yaml:5:3: Server/w: spec.image: Image/i not found")
    assert lines[-1] == "12 more problems not shown"
    assert not any("10M" in line for line in lines)


def test_warnings_alone_do_not_refuse(folder: pathlib.Path) -> None:
    (folder / "a.yaml").write_text(IMAGE + "---\n" + server("a") + "  resources: {memory: {max: 10M}}\n")
    (warning,) = load(["a.yaml"]).warnings
    assert (warning.severity, warning.subject, warning.path) == (
        "warning",
        "Server/a",
        "spec.resources.memory.max",
    )


def test_a_value_is_found_in_the_text_by_its_path(folder: pathlib.Path) -> None:
    quota = "apiVersion: vsprov/v1\nkind: Quota\nmetadata: {name: q}\nspec:\n  memory: {max: 1Mi}\n"
    rest = "  quota: q\n  mounts:\n  - {type: tmpfs, target: /b}\n  - {type: tmpfs, target: /a}\n"
    (folder / "a.yaml").write_text(IMAGE + "---\n" + server("a") + rest)
    (folder / "q.yaml").write_text(quota)
    manifest = load(["a.yaml", "q.yaml"])
    assert manifest.position("Server/a", "spec.image") == Position("a.yaml", 10, 3)
    assert manifest.position("Server/a", "spec.resources.memory.max") == Position("q.yaml", 5, 12)
    assert manifest.position("Server/a", "spec.mounts[0].target") == Position("a.yaml", 15, 19)
    located = manifest.located(Problem("refused", None, "spec.mounts[0].target", "Server/a"))
    assert str(located) == "a.yaml:15:19: Server/a: spec.mounts[1].target: refused"
    assert str(manifest.located(Problem("no", None, "x", "Server/b"))) == "Server/b: x: no"
    assert manifest.position("Server/a", ("spec", "mounts", 1)) == Position("a.yaml", 14, 5)
    assert manifest.position("Server/a", "spec.init.env.PATH") == Position("a.yaml", 11, 3)
    assert manifest.position("Server/a") == Position("a.yaml", 6, 1)
    assert manifest.position("Server/b", "spec.image") is None
    assert manifest.origin("Server/a", "spec.resources.memory.max").text == "Quota/q"
    assert load_documents(render(manifest)).position("Server/a", "spec.image") is None


def test_each_file_is_read_once(folder: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "a.yaml").write_text(IMAGE)
    (folder / "b.yaml").symlink_to("a.yaml")
    count: list[str] = []
    read = files_module.read

    def counted(name: str) -> str:
        count.append(name)
        return read(name)

    monkeypatch.setattr(files_module, "read", counted)
    load(["a.yaml", "a.yaml", "b.yaml"])
    assert count == ["a.yaml"]


def test_an_object_may_be_in_several_files_if_its_documents_are_equal(folder: pathlib.Path) -> None:
    small = "apiVersion: vsprov/v1\nkind: Quota\nmetadata: {name: small}\nspec: {pids: {max: 9}}\n"
    using = server("NAME").replace("image: i", "image: i\n  quota: small")
    (folder / "a.yaml").write_text(f"{IMAGE}---\n{small}---\n{using.replace('NAME', 'a')}")
    (folder / "b.yaml").write_text(f"# as in a\n{small}---\n{using.replace('NAME', 'b')}---\n{IMAGE}")
    both = load(["a.yaml", "b.yaml"])
    assert [each.address for each in both.objects] == ["Image/i", "Quota/small", "Server/a", "Server/b"]
    assert [each.spec.resources["pids.max"] for each in both.objects if isinstance(each.spec, Server)] == [
        9,
        9,
    ]
    (folder / "b.yaml").write_text(small.replace("9", "10"))
    assert wrong("a.yaml", "b.yaml") == [
        "b.yaml:3:12: Quota/small: metadata.name: Quota/small is already defined in a.yaml:8:12"
    ]


def test_the_same_document_with_another_meaning_in_another_folder_is_not_equal(folder: pathlib.Path) -> None:
    for name in ("a", "b"):
        (folder / name).mkdir()
        (folder / name / "m.yaml").write_text(IMAGE.replace("{host: {}}", "{directory: ./root}"))
    assert wrong("a", "b") == [
        "b/m.yaml:3:12: Image/i: metadata.name: Image/i is already defined in a/m.yaml:3:12"
    ]


def test_a_document_that_is_twice_in_one_file_is_a_mistake(folder: pathlib.Path) -> None:
    (folder / "a.yaml").write_text(f"{IMAGE}---\n{IMAGE}")
    assert wrong("a.yaml") == [
        "a.yaml:8:12: Image/i: metadata.name: Image/i is already defined in a.yaml:3:12"
    ]


def test_a_server_may_use_an_image_that_is_already_there(folder: pathlib.Path) -> None:
    (folder / "a.yaml").write_text(server("a"))
    assert load(["a.yaml"], known_images=frozenset({"i"})).objects[0].name == "a"
    assert len(wrong("a.yaml")) == 1


def test_every_value_of_the_rendered_documents_is_explained(folder: pathlib.Path) -> None:
    (folder / "a.yaml").write_text(IMAGE + "---\n" + server("a"))
    manifest = load(["a.yaml"])
    rows = explain(manifest)
    assert ("Server/a", "spec.image", "i", "manifest (a.yaml:10:3)") in rows
    assert ("Server/a", "spec.init.stopTimeout", "10s", "default") in rows
    assert len({row[:2] for row in rows}) == len(rows)


def test_the_keys_of_a_port_in_the_short_form_come_from_the_manifest(folder: pathlib.Path) -> None:
    ports = server("a") + "  interfaces: [{name: eth0, network: lan}]\n  ports:\n  - 8080:80\n"
    (folder / "a.yaml").write_text(IMAGE + "---\n" + ports)
    manifest = load(["a.yaml"])
    line = ports[: ports.index("8080")].count("\n") + 1 + IMAGE.count("\n") + 1
    rows = explain(manifest)
    assert ("Server/a", "spec.ports[0].hostPort", "8080", f"manifest (a.yaml:{line}:5)") in rows
    assert ("Server/a", "spec.ports[0].port", "80", f"manifest (a.yaml:{line}:5)") in rows


@given(manifests())
def test_what_is_rendered_reads_as_the_same_manifest(documents: list[Any]) -> None:
    manifest = load_documents(documents)
    rendered = render(manifest)
    again = load_documents(rendered)
    assert again == manifest
    assert render(again) == rendered
    assert again.objects == manifest.objects and len(manifest.objects) == len(documents)


@given(manifests())
def test_what_is_written_as_yaml_reads_as_the_same_documents(documents: list[Any]) -> None:
    rendered = render(load_documents(documents))
    found, problems = parse(to_yaml(rendered), "m.yaml")
    assert problems == []
    assert [document.value for document in found] == rendered


@given(manifests())
def test_every_value_has_an_origin(documents: list[Any]) -> None:
    for address, path, shown, origin in explain(load_documents(documents)):
        assert address and path and isinstance(shown, str)
        assert origin in ("manifest", "default", "Quota/small")


@given(st.lists(nearly_right() | JSON, max_size=4))
def test_any_json_gives_a_manifest_or_problems(documents: list[Any]) -> None:
    try:
        manifest = load_documents(documents, known_images=frozenset({"0", "a"}))
    except ManifestError as error:
        assert any(problem.severity == "error" for problem in error.problems)
        assert len(error.problems) <= 201
    else:
        assert load_documents(render(manifest), known_images=frozenset({"0", "a"})) == manifest


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=st.text() | st.lists(nearly_right()).map(to_yaml))
def test_any_text_gives_a_manifest_or_problems(folder: pathlib.Path, text: str) -> None:
    (folder / "a.yaml").write_text(text, errors="surrogatepass")
    try:
        load(["a.yaml"])
    except ManifestError as error:
        assert all(problem.position for problem in error.problems[:200])


AMBIGUOUS = [
    "no", "Yes", "on", "off", "y", "N", "true", "TRUE", "null", "~", "", "22:22", "1:30:00", "0:0", "0o17",
    "0755", "0x1F", "0b1", "1e3", "1_000", ".5", ".inf", ".nan", "+1", "-", "=", "<<", "2026-01-01", "'", '"',
    "# a", "a: b", "*a", "&a", "!a", "%a", "@a", "`a", "|", ">", "?", "- a", " a", "a ", "a\n", "\na",
    "a\n\n b", "\t", "\r", "\x1b[0m", "\u0085", "\u2028", "a\n\u2029", "\ufeff", "日本", "\U0001f600", "\\",
    "{a}", "[a]", "a, b", "---", "...", "[", ":", "a:", "a #b",
]  # fmt: skip


@pytest.mark.parametrize("text", AMBIGUOUS, ids=ascii)
def test_a_text_that_could_be_misread_is_quoted(text: str) -> None:
    for value in ([text], {"key": text, "list": [{"a": text}]}):
        written = to_yaml([value])
        (document,) = parse(written, "m.yaml")[0]
        assert document.value == value, written
        assert yaml.safe_load(written) == value, written


@given(JSON)
def test_any_json_written_as_yaml_is_read_again(value: Any) -> None:
    assume("\\x00" not in repr(value) and "inf" not in repr(value))  # neither can be written
    found, problems = parse(to_yaml([value]), "m.yaml")
    assert (problems, [document.value for document in found]) == ([], [value])


def test_documents_keep_the_order_of_their_keys_and_are_kept_apart() -> None:
    assert (
        to_yaml([{"b": 1, "a": [True, None, "x"]}, {"c": {}}])
        == "b: 1\na:\n- true\n- null\n- x\n---\nc: {}\n"
    )


@pytest.mark.parametrize(
    "path",
    [(), ("spec",), ("spec", "mounts", 0, "target"), ("metadata", "labels", "a.b/c"), ("spec", "x y", 3, 4)],
)
def test_a_written_path_is_read_again(path: tuple[str | int, ...]) -> None:
    assert _parts(dotted(path)) == path


def test_a_thousand_servers_are_a_thousand_objects(folder: pathlib.Path) -> None:
    (folder / "a.yaml").write_text(IMAGE + "".join("---\n" + server(f"s{i}") for i in range(1000)))
    manifest = load(["a.yaml"])
    assert sum(isinstance(one.spec, Server) for one in manifest.objects) == 1000


def test_documents_that_are_nested_too_deeply_are_a_problem_and_no_traceback() -> None:
    deep: Any = []
    for _ in range(600):
        deep = [deep]
    quota = {"apiVersion": "vsprov/v1", "kind": "Quota", "metadata": {"name": "q"}, "spec": {"x-deep": deep}}
    assert load_documents([quota]).objects[0].name == "q"
    for _ in range(100_000):
        deep = [deep]
    quota["spec"] = {"x-deep": deep, "unknown": 1}
    with pytest.raises(ManifestError, match="nested too deeply"):
        load_documents([quota])
    while deep:  # an object this deep cannot be freed at once
        deep = deep.pop()


def test_a_document_with_no_end_of_problems_is_not_looked_at_to_its_end(folder: pathlib.Path) -> None:
    unknown = "".join(f"  k{i}: 1\n" for i in range(20_000))
    (folder / "a.yaml").write_text(server("a") + unknown)
    assert len(wrong("a.yaml")) == 201


def test_many_missing_names_among_many_known_ones_are_found(folder: pathlib.Path) -> None:
    text = IMAGE + "".join(
        f"---\n{server(f'server-{i:04}')}  dependsOn: [{{name: sever-{i:04}}}]\n" for i in range(2000)
    )
    (folder / "a.yaml").write_text(text)
    lines = wrong("a.yaml")
    assert lines[0].endswith("Server/sever-0000 not found; did you mean 'server-0000'?")
    assert lines[-1] == "1800 more problems not shown"
