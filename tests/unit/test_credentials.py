"""Credentials: where they are looked for, which key wins, and that no message tells them."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vsprov.errors import ImageError
from vsprov.model.values.image_reference import parse_reference
from vsprov.store.registry import credentials
from vsprov.store.registry.credentials import Credentials

SECRET = "hunter2: with a colon"


def auth(user: str, password: str = SECRET) -> dict[str, str]:
    return {"auth": base64.b64encode(f"{user}:{password}".encode()).decode()}


def found(image: str) -> Credentials | None:
    return credentials.find(parse_reference(image))


def user_of(image: str) -> str | None:
    known = found(image)
    return known.user if known else None


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Nothing of who runs the tests is read, but for /run/containers, which must not be there."""
    for name in ("REGISTRY_AUTH_FILE", "XDG_RUNTIME_DIR", "XDG_CONFIG_HOME", "DOCKER_CONFIG"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))


@pytest.fixture
def file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    path = tmp_path / "auth.json"
    monkeypatch.setenv("REGISTRY_AUTH_FILE", str(path))
    return path


def write(path: Path, **content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def helper(monkeypatch: pytest.MonkeyPatch, folder: Path, script: str) -> None:
    """Put docker-credential-tests, a shell script, on the path."""
    folder.mkdir()
    (folder / "docker-credential-tests").write_text(f"#!/bin/sh\n{script}\n")
    (folder / "docker-credential-tests").chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")


def test_the_most_specific_key_wins(file: Path) -> None:
    write(file, auths={
        "quay.io": auth("host"),
        "quay.io/team": auth("team"),
        "quay.io/team/app": auth("app"),
        "quay.io/team/application": auth("other"),
    })  # fmt: skip
    images = ("quay.io/team/app", "quay.io/team/b/c", "quay.io/teams/app", "ghcr.io/team/app")
    assert [user_of(image) for image in images] == ["app", "team", "host", None]


@pytest.mark.parametrize(
    "key", ["https://index.docker.io/v1/", "index.docker.io", "docker.io", "docker.io/library"]
)
def test_docker_io_has_several_names(file: Path, key: str) -> None:
    write(file, auths={key: auth("me")})
    assert found("debian:12") == Credentials(str(file), "me", SECRET)


def test_a_key_may_be_an_address(file: Path) -> None:
    write(file, auths={"https://Registry.example:5000/v2/": auth("me")})
    assert user_of("registry.example:5000/app") == "me"
    assert user_of("registry.example/app") is None


def test_files_are_read_in_the_order_of_podman_then_docker(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    home = tmp_path / "home"
    paths = [
        tmp_path / "given.json",
        tmp_path / "run/containers/auth.json",
        home / ".config/containers/auth.json",
        tmp_path / "docker/config.json",
        home / ".docker/config.json",
    ]
    monkeypatch.setenv("REGISTRY_AUTH_FILE", str(paths[0]))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "run"))
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "docker"))
    for path in paths:
        write(path, auths={"quay.io": auth(path.parent.name)})
    for path in paths:
        assert found("quay.io/app") == Credentials(str(path), path.parent.name, SECRET)
        write(path, auths={"ghcr.io": auth("elsewhere"), "quay.io": {}})
    assert found("quay.io/app") is None


def test_an_identity_token_is_found(file: Path) -> None:
    write(file, auths={"quay.io": {**auth("me", ""), "identitytoken": "abc"}})
    assert found("quay.io/app") == Credentials(str(file), "me", "", "abc")


@pytest.mark.parametrize("where", [{"credHelpers": {"quay.io": "tests"}}, {"credsStore": "tests"}])
def test_a_helper_program_is_asked(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, file: Path, where: dict[str, Any]
) -> None:
    script = (
        f"""test "$1" = get && test "$(cat)" = quay.io && echo '{{"Username": "me", "Secret": "{SECRET}"}}'"""
    )
    helper(monkeypatch, tmp_path / "bin", script)
    write(file, auths={"quay.io": {}}, **where)
    known = found("quay.io/app")
    assert known is not None and (known.user, known.password) == ("me", SECRET)


def test_a_helper_may_know_an_identity_token_or_nothing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, file: Path
) -> None:
    helper(monkeypatch, tmp_path / "bin", """
        case "$(cat)" in
        quay.io) echo '{"Username": "<token>", "Secret": "abc"}' ;;
        *) echo "credentials not found in native keychain"; exit 1 ;;
        esac""")  # fmt: skip
    write(file, credsStore="tests")
    known = found("quay.io/app")
    assert known is not None and (known.user, known.identity_token) == ("", "abc")
    assert found("ghcr.io/app") is None


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{", "not a JSON document"),
        ('{"auths": []}', "auths is a list"),
        ('{"auths": {"quay.io": "me"}}', "quay.io is text"),
        ('{"auths": {"quay.io": {"auth": "hunter2"}}}', "the entry for quay.io is invalid"),
        ('{"auths": {"quay.io": {"auth": ["hunter2"]}}}', "the entry for quay.io is invalid"),
        ('{"auths": {"quay.io": {"auth": "aHVudGVyMg=="}}}', "the entry for quay.io is invalid"),
        ('{"credHelpers": {"quay.io": 7}}', "credHelpers contains a number; expected text"),
        ('{"credHelpers": {"quay.io": "../../bin/sh"}}', "is not the name of a credential helper"),
        ('{"credsStore": "none-of-this-name"}', "run docker-credential-none-of-this-name: No such file"),
    ],
)
def test_a_file_that_cannot_be_read_is_named_and_its_secrets_are_not(
    file: Path, content: str, words: str
) -> None:
    file.write_text(content)
    with pytest.raises(ImageError) as refused:
        found("quay.io/app")
    said = f"{refused.value}{refused.value.hint}"
    assert str(refused.value).startswith(f"{file}: ") and words in said
    assert "hunter2" not in said and "aHVudGVyMg" not in said


@pytest.mark.parametrize(
    "script", ["echo hunter2; exit 3", "echo hunter2", """echo '{"Secret": ["hunter2"]}'"""]
)
def test_a_helper_that_fails_is_named_and_what_it_says_is_not(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, file: Path, script: str
) -> None:
    helper(monkeypatch, tmp_path / "bin", script)
    write(file, credsStore="tests")
    with pytest.raises(ImageError) as refused:
        found("quay.io/app")
    assert str(refused.value).startswith(f"{file}: docker-credential-tests: ")
    assert "hunter2" not in f"{refused.value}{refused.value.hint}"


def test_credentials_do_not_show_their_secrets() -> None:
    assert "hunter2" not in repr(Credentials("file", "me", SECRET, SECRET))


JSON = st.recursive(
    st.none() | st.integers() | st.text(max_size=9) | st.just("tests/../x"),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["auths", "credHelpers", "credsStore", "quay.io", "auth", "identitytoken", "x"]),
            inner,
            max_size=4,
        )
    ),
    max_leaves=10,
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(JSON)
def test_files_of_any_content_are_read_or_refused(file: Path, content: Any) -> None:
    file.write_text(json.dumps(content))
    try:
        found("quay.io/app")
    except ImageError as error:
        assert str(error).startswith(f"{file}: ") and str(error).isprintable()
