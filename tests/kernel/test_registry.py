"""Images from a real registry: found, downloaded, gone on with, and refused."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import random
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests import registry as lab
from tests.archives import member, packed
from tests.features import requires
from tests.http_servers import Answer, answering, cutting
from tests.registry import Registry
from vsprov.errors import ImageError
from vsprov.model.values.image_reference import parse_reference
from vsprov.store.registry import access, oci_documents, session
from vsprov.store.registry.oci_documents import Found
from vsprov.store.registry.parts import RegistryParts

requires("docker_registry", "skopeo")

MIB = 1 << 20
OTHER = "arm64" if oci_documents.platforms()[0][0] != "arm64" else "amd64"
NOISE = packed(member("noise", random.Random(1).randbytes(3 * MIB)))  # gzip does not make it smaller
HELLO = packed(member("hello", b"hello"))


@pytest.fixture(scope="module")
def layout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`small` of two layers, `big` of 3 MiB, `many` for two machines, `foreign` for another."""
    path = tmp_path_factory.mktemp("layout")
    small = lab.image(path, HELLO, packed(member("b", b"b")), config={"Cmd": ["/hello"], "Env": ["A=b"]})
    other = lab.image(path, HELLO, architecture=OTHER)
    platforms = (
        {**other, "platform": {"os": "linux", "architecture": OTHER}},
        {**small, "platform": {"os": "linux", "architecture": oci_documents.platforms()[0][0]}},
    )
    return lab.named(
        path, small=small, big=lab.image(path, NOISE), many=lab.index(path, *platforms), foreign=other
    )


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory, layout: Path) -> Iterator[Registry]:
    """A registry that no test changes, with all images of the layout as team/<name>:v1."""
    with lab.running(tmp_path_factory.mktemp("registry")) as registry:
        for name in ("small", "big", "many", "foreign"):
            registry.push(layout, f"team/{name}:v1", name, "--all")
        yield registry


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    lab.nobody(monkeypatch, tmp_path)


def parts(tmp_path: Path, name: str, *, insecure: bool = False) -> RegistryParts:
    return RegistryParts(parse_reference(name), str(tmp_path / "downloads"), insecure)


def refusal(work: Callable[[], object]) -> ImageError:
    with pytest.raises(ImageError) as refused:
        work()
    assert str(refused.value).isprintable()
    return refused.value


def digest_of(layout: Path, name: str) -> str:
    entries = json.loads((layout / "index.json").read_text())["manifests"]
    (found,) = (entry["digest"] for entry in entries if name in entry["annotations"].values())
    return str(found).removeprefix("sha256:")


def downloaded(tmp_path: Path) -> list[str]:
    folder = tmp_path / "downloads"
    return sorted(os.listdir(folder)) if folder.exists() else []


# ---- what is found


def test_a_tag_leads_to_an_image_whose_layers_are_downloaded_and_right(
    tmp_path: Path, layout: Path, shared: Registry
) -> None:
    image = parts(tmp_path, f"{shared.host}/team/small:v1")
    found = image.find()
    assert found.digest == found.manifest.digest == digest_of(layout, "small")
    assert found.config.to_json() == {"command": ["/hello"], "env": {"A": "b"}}
    assert found.config.diff_ids[0] == hashlib.sha256(HELLO).hexdigest()
    told: list[tuple[str, int, int]] = []
    for layer in found.manifest.layers:
        path = Path(image.layer(layer, lambda *words: told.append(words)))
        assert path.read_bytes() == (layout / "blobs/sha256" / layer.digest).read_bytes()
        assert told[-1] == (f"download {layer.digest[:12]}", layer.size, layer.size)
    assert downloaded(tmp_path) == sorted(layer.digest for layer in found.manifest.layers)


def test_a_digest_leads_to_the_same_image_and_to_no_other(
    tmp_path: Path, layout: Path, shared: Registry
) -> None:
    digest = digest_of(layout, "small")
    by_tag = parts(tmp_path, f"{shared.host}/team/small:v1").find()
    assert parts(tmp_path, f"{shared.host}/team/small@sha256:{digest}").find() == by_tag
    assert parts(tmp_path, f"{shared.host}/team/small:gone@sha256:{digest}").find() == by_tag


def test_of_an_image_for_several_machines_the_one_for_this_machine_is_found(
    tmp_path: Path, layout: Path, shared: Registry
) -> None:
    found = parts(tmp_path, f"{shared.host}/team/many:v1").find()
    assert (found.digest, found.manifest.digest) == (digest_of(layout, "many"), digest_of(layout, "small"))


def test_an_image_for_another_machine_is_refused(tmp_path: Path, shared: Registry) -> None:
    said = str(refusal(parts(tmp_path, f"{shared.host}/team/foreign:v1").find))
    assert said.startswith(f"{shared.host}/team/foreign:v1: built for 'linux/{OTHER}'; this machine needs")


def test_an_image_in_the_format_of_docker_is_the_same_in_what_matters(tmp_path: Path, layout: Path) -> None:
    with lab.running(tmp_path / "registry") as registry:
        registry.push(layout, "team/docker:v1", "small", "--format", "v2s2")
        registry.push(layout, "team/oci:v1", "small")
        docker, plain = (
            parts(tmp_path, f"{registry.host}/team/{name}:v1").find() for name in ("docker", "oci")
        )
    assert docker.manifest.config.media_type == oci_documents.CONFIGS[1]
    assert docker.config.diff_ids == plain.config.diff_ids
    assert docker.config.to_json() == plain.config.to_json()
    assert [layer.digest for layer in docker.manifest.layers] == [
        layer.digest for layer in plain.manifest.layers
    ]


@pytest.mark.requires("umoci", "busybox")
def test_an_image_that_umoci_made_is_found_with_what_umoci_configured(tmp_path: Path) -> None:
    made, rootfs = tmp_path / "made", tmp_path / "rootfs"
    (rootfs / "bin").mkdir(parents=True)
    (rootfs / "bin/busybox").write_bytes(Path("/bin/busybox").read_bytes())
    for words in (
        ("init", "--layout", made),
        ("new", "--image", f"{made}:box"),
        ("insert", "--rootless", "--image", f"{made}:box", rootfs / "bin", "/bin"),
        ("config", "--image", f"{made}:box", "--config.entrypoint", "/bin/busybox", "--config.cmd", "sh",
         "--config.env", "HOME=/root", "--config.user", "0:0", "--config.workingdir", "/root"),
    ):  # fmt: skip
        subprocess.run(["umoci", *map(str, words)], check=True, capture_output=True)
    with lab.running(tmp_path / "registry") as registry:
        registry.push(made, "box:1", "box")
        image = parts(tmp_path, f"{registry.host}/box:1")
        found = image.find()
        (layer,) = found.manifest.layers
        path = image.layer(layer, lab.quiet)
    # Not by tar: umoci 0.4.7 leaves out the end of an archive that it inserts, even the last block's padding.
    content = gzip.decompress(Path(path).read_bytes())
    assert found.config.diff_ids == (hashlib.sha256(content).hexdigest(),)
    assert Path("/bin/busybox").read_bytes() in content
    assert found.config.to_json() == {
        "entrypoint": ["/bin/busybox"], "command": ["sh"], "user": "0:0", "workingDir": "/root",
        "env": {**found.config.env, "HOME": "/root"},
    }  # fmt: skip


def test_layers_are_downloaded_by_several_threads_at_once_and_each_only_once(
    tmp_path: Path, shared: Registry
) -> None:
    with cutting(shared.host, 1 << 40) as proxy:
        image = parts(tmp_path, f"{proxy.host}/team/big:v1")
        (layer,) = image.find().manifest.layers
        proxy.ranges.clear()
        with ThreadPoolExecutor(6) as pool:
            paths = list(pool.map(lambda _: image.layer(layer, lab.quiet), range(6)))
        assert proxy.ranges == [""]
    assert set(paths) == {str(tmp_path / "downloads" / layer.digest)}
    assert downloaded(tmp_path) == [layer.digest]


# ---- what is not there


def test_an_unknown_tag_is_refused_with_the_tags_there_are(tmp_path: Path, shared: Registry) -> None:
    error = refusal(parts(tmp_path, f"{shared.host}/team/small:v2").find)
    name = f"{shared.host}/team/small"
    assert str(error) == f"{name}:v2: {shared.host} has no tag v2: it has 'v1'"
    assert error.hint == f"list the tags: skopeo list-tags docker://{name}"


def test_an_unknown_repository_and_an_unknown_digest_are_told_as_such(
    tmp_path: Path, shared: Registry
) -> None:
    assert "has no repository team/none" in str(refusal(parts(tmp_path, f"{shared.host}/team/none:v1").find))
    wanted = f"{shared.host}/team/small@sha256:{'0' * 64}"
    assert f"has no manifest sha256:{'0' * 64}" in str(refusal(parts(tmp_path, wanted).find))


def test_a_registry_that_is_not_there_is_refused_after_a_few_tries(tmp_path: Path) -> None:
    host = f"127.0.0.1:{lab.free_port()}"
    assert (
        str(refusal(parts(tmp_path, f"{host}/app").find)) == f"{host}/app:latest: {host}: Connection refused"
    )


def test_a_host_that_nobody_knows_is_refused(tmp_path: Path) -> None:
    error = refusal(parts(tmp_path, "registry.invalid/app").find)
    assert str(error).startswith("registry.invalid/app:latest: registry.invalid: look up the host: ")


def test_what_is_no_registry_is_told_as_such(tmp_path: Path) -> None:
    with answering(lambda request: Answer(404, b"<html>")) as host:
        assert "the server there is not a container registry" in str(
            refusal(parts(tmp_path, f"{host}/app").find)
        )


# ---- TLS


@pytest.fixture(scope="module")
def secure(tmp_path_factory: pytest.TempPathFactory, layout: Path) -> Iterator[Registry]:
    requires("openssl")
    with lab.running(tmp_path_factory.mktemp("secure"), tls=True) as registry:
        registry.push(layout, "team/small:v1", "small")
        yield registry


def test_a_certificate_that_nobody_vouches_for_is_refused_even_on_loopback(
    tmp_path: Path, secure: Registry
) -> None:
    error = refusal(parts(tmp_path, f"{secure.host}/team/small:v1").find)
    assert f"{secure.host}: its certificate is not trusted: unable to get local issuer" in str(error)
    assert (
        error.hint == f"put the certificate of its authority in /etc/containers/certs.d/{secure.host}/ca.crt"
    )


def test_the_authority_of_one_registry_is_trusted_for_that_registry(
    tmp_path: Path, layout: Path, secure: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(access, "CERTIFICATES", (str(tmp_path / "certs.d"),))
    assert secure.authority is not None
    for host, trusted in (("127.0.0.1:1", False), (secure.host, True)):
        (tmp_path / "certs.d" / host).mkdir(parents=True)
        (tmp_path / "certs.d" / host / "ca.crt").write_bytes(secure.authority.read_bytes())
        find = parts(tmp_path, f"{secure.host}/team/small:v1").find
        if trusted:
            assert find().digest == digest_of(layout, "small")
        else:
            assert "not trusted" in str(refusal(find))


def test_an_authority_of_the_system_is_trusted(
    tmp_path: Path, layout: Path, secure: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(secure.authority))
    assert parts(tmp_path, f"{secure.host}/team/small:v1").find().digest == digest_of(layout, "small")


@pytest.mark.filterwarnings("error")
def test_an_insecure_registry_is_spoken_to_with_and_without_tls(
    tmp_path: Path, layout: Path, secure: Registry, shared: Registry
) -> None:
    for registry in (secure, shared):
        image = parts(tmp_path, f"{registry.host}/team/small:v1", insecure=True)
        assert image.find().digest == digest_of(layout, "small")


def test_plain_http_is_for_loopback_only_where_insecure_was_not_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session, "_is_loopback", lambda host: False)
    with answering(lambda request: Answer(200)) as host:
        error = refusal(parts(tmp_path, f"{host}/app").find)
    assert f"{host}: TLS: wrong version number" in str(error) and "insecure: true" in error.hint


@pytest.mark.parametrize(
    ("host", "loopback"),
    [
        ("localhost", True),
        ("localhost:5000", True),
        ("127.8.0.1:5000", True),
        ("[::1]:5000", True),
        ("localhost.example:5000", False),
        ("10.0.0.1", False),
        ("127.0.0.1.example", False),
    ],
)
def test_loopback_is_told_from_what_only_looks_like_it(host: str, loopback: bool) -> None:
    assert session._is_loopback(host) is loopback


# ---- logging in


@pytest.fixture(scope="module")
def with_users(tmp_path_factory: pytest.TempPathFactory, layout: Path) -> Iterator[Registry]:
    with lab.running(tmp_path_factory.mktemp("users"), users=True) as registry:
        registry.push(layout, "team/small:v1", "small")
        yield registry


def pulled(image: RegistryParts) -> Found:
    found = image.find()
    for layer in found.manifest.layers:
        image.layer(layer, lab.quiet)
    return found


def test_user_and_password_open_a_registry(tmp_path: Path, layout: Path, with_users: Registry) -> None:
    lab.log_in(tmp_path, with_users.host)
    found = pulled(parts(tmp_path, f"{with_users.host}/team/small:v1"))
    assert found.digest == digest_of(layout, "small")


def test_without_credentials_the_refusal_says_how_to_log_in(tmp_path: Path, with_users: Registry) -> None:
    error = refusal(parts(tmp_path, f"{with_users.host}/team/small:v1").find)
    assert "requires authentication; no credentials found" in str(error)
    assert error.hint.startswith(f"log in: skopeo login {with_users.host} ")


def test_wrong_credentials_are_refused_and_not_shown(
    tmp_path: Path, with_users: Registry, capfd: pytest.CaptureFixture[str]
) -> None:
    lab.log_in(tmp_path, with_users.host, "hunter2")
    error = refusal(parts(tmp_path, f"{with_users.host}/team/small:v1").find)
    assert f"rejected the credentials in {tmp_path}/auth.json" in str(error)
    assert "hunter2" not in f"{error}{error.hint}" and capfd.readouterr() == ("", "")


def test_what_netrc_holds_is_not_sent(tmp_path: Path, with_users: Registry) -> None:
    (tmp_path / ".netrc").write_text(f"machine 127.0.0.1 login {lab.USER} password wrong\n")
    lab.log_in(tmp_path, with_users.host)
    pulled(parts(tmp_path, f"{with_users.host}/team/small:v1"))


@pytest.fixture(scope="module")
def tokens(tmp_path_factory: pytest.TempPathFactory) -> Iterator[lab.TokenServer]:
    requires("openssl")
    with lab.token_server(tmp_path_factory.mktemp("tokens")) as server:
        yield server


@pytest.fixture(scope="module")
def with_tokens(
    tmp_path_factory: pytest.TempPathFactory, layout: Path, tokens: lab.TokenServer
) -> Iterator[Registry]:
    with lab.running(tmp_path_factory.mktemp("with_tokens"), tokens=tokens) as registry:
        for name in ("team/small:v1", "public/small:v1"):
            registry.push(layout, name, "small")
        yield registry


def test_a_token_opens_what_is_public_to_everyone_and_the_rest_to_a_user(
    tmp_path: Path, layout: Path, with_tokens: Registry, tokens: lab.TokenServer
) -> None:
    tokens.asked.clear()
    pulled(parts(tmp_path, f"{with_tokens.host}/public/small:v1"))
    assert tokens.asked == [""]
    assert "requires authentication" in str(
        refusal(parts(tmp_path, f"{with_tokens.host}/team/small:v1").find)
    )
    lab.log_in(tmp_path, with_tokens.host)
    tokens.asked.clear()
    found = pulled(parts(tmp_path, f"{with_tokens.host}/team/small:v1"))
    assert (found.digest, tokens.asked) == (digest_of(layout, "small"), [lab.USER])


def test_an_identity_token_is_changed_for_a_token(
    tmp_path: Path, with_tokens: Registry, tokens: lab.TokenServer
) -> None:
    lab.log_in(tmp_path, with_tokens.host, "", identitytoken=tokens.refresh_token)
    pulled(parts(tmp_path, f"{with_tokens.host}/team/small:v1"))
    lab.log_in(tmp_path, with_tokens.host, "", identitytoken="hunter2")
    error = refusal(parts(tmp_path, f"{with_tokens.host}/team/small:v1").find)
    assert "rejected the credentials" in str(error) and "hunter2" not in str(error)


def test_wrong_credentials_for_a_token_are_refused(tmp_path: Path, with_tokens: Registry) -> None:
    lab.log_in(tmp_path, with_tokens.host, "hunter2")
    error = refusal(parts(tmp_path, f"{with_tokens.host}/public/small:v1").find)
    assert "rejected the credentials" in str(error) and "hunter2" not in str(error)
