"""Registries on loopback for the tests: docker-registry, a server of tokens, and what stands between.

And images to put into them, as OCI layouts written by hand.
"""

from __future__ import annotations

import base64
import contextlib
import gzip
import hashlib
import json
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlparse

import pytest

from tests.http_servers import Answer, Request, answering
from vsprov.store.registry import download, oci_documents, session

USER, PASSWORD = "alice", "correct horse: battery"
# bcrypt of PASSWORD, which Python cannot make by itself any more.
HTPASSWD = "alice:$2b$05$abcdefghijklmnopqrstuuo.EtZwHYN4TBb5Jt4JZsHk5MDJevH0W"
DEADLINE = 60.0  # seconds until a registry must answer


# ---- images


def blob(layout: Path, data: bytes, media_type: str, **more: Any) -> dict[str, Any]:
    """The descriptor of `data`, which now is a blob of the layout."""
    digest = hashlib.sha256(data).hexdigest()
    folder = layout / "blobs/sha256"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / digest).write_bytes(data)
    return {"mediaType": media_type, "digest": f"sha256:{digest}", "size": len(data), **more}


def document(layout: Path, content: Any, media_type: str, **more: Any) -> dict[str, Any]:
    return blob(layout, json.dumps(content).encode(), media_type, **more)


def image(
    layout: Path,
    *layers: bytes,
    architecture: str = "",
    config: dict[str, Any] | None = None,
    compression: str = "gzip",
    diff_ids: Sequence[str] = (),
) -> dict[str, Any]:
    """The descriptor of an image of these archives, lowest first, each compressed ("gzip", "zstd", "").

    `diff_ids`: their sums, where they are to be others than they have.
    """
    kind = "application/vnd.oci.image.layer.v1.tar" + (f"+{compression}" if compression else "")
    parts = [blob(layout, compressed(layer, compression), kind) for layer in layers]
    about = {
        "os": "linux",
        "architecture": architecture or oci_documents.platforms()[0][0],
        "config": config or {},
        "rootfs": {
            "type": "layers",
            "diff_ids": diff_ids or [f"sha256:{hashlib.sha256(one).hexdigest()}" for one in layers],
        },
    }
    manifest = {
        "schemaVersion": 2,
        "mediaType": oci_documents.MANIFESTS[0],
        "config": document(layout, about, oci_documents.CONFIGS[0]),
        "layers": parts,
    }
    return document(layout, manifest, oci_documents.MANIFESTS[0])


def compressed(data: bytes, compression: str) -> bytes:
    if compression == "gzip":
        return gzip.compress(data, 1, mtime=0)
    if compression == "zstd":
        return subprocess.run(["zstd", "-1q"], input=data, capture_output=True, check=True).stdout
    return data


def index(layout: Path, *manifests: dict[str, Any]) -> dict[str, Any]:
    """The descriptor of an index of these images."""
    content = {"schemaVersion": 2, "mediaType": oci_documents.INDEXES[0], "manifests": list(manifests)}
    return document(layout, content, oci_documents.INDEXES[0])


def named(layout: Path, **images: dict[str, Any]) -> Path:
    """The layout, now with an index.json that names these images."""
    (layout / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    entries = [
        {**descriptor, "annotations": {"org.opencontainers.image.ref.name": name}}
        for name, descriptor in images.items()
    ]
    (layout / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": entries}))
    return layout


# ---- clients


def nobody(monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
    """Have no credentials but those in `home`/auth.json, and lose no second between two tries."""
    for name in ("XDG_RUNTIME_DIR", "XDG_CONFIG_HOME", "DOCKER_CONFIG", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("REGISTRY_AUTH_FILE", str(home / "auth.json"))
    monkeypatch.setattr(session, "PAUSE", 0.01)
    monkeypatch.setattr(download, "PAUSE", 0.01)


def log_in(home: Path, host: str, password: str = PASSWORD, **more: str) -> None:
    """Keep credentials as `skopeo login` does."""
    auth = base64.b64encode(f"{USER}:{password}".encode()).decode()
    (home / "auth.json").write_text(json.dumps({"auths": {host: {"auth": auth, **more}}}))


def quiet(what: str, done: int, total: int) -> None:
    """Progress that nobody watches."""


# ---- registries


@dataclass(slots=True)
class Registry:
    """A docker-registry that runs; `host` is 127.0.0.1:port, `storage` where it keeps what it was given."""

    host: str
    folder: Path
    authority: Path | None = None  # the certificate to trust, for one that speaks TLS
    login: tuple[str, ...] = ()  # for skopeo

    @property
    def storage(self) -> Path:
        return self.folder / "storage"

    def blob(self, digest: str) -> Path:
        """The file of a blob in the registry's own storage."""
        return self.storage / f"docker/registry/v2/blobs/sha256/{digest[:2]}/{digest}/data"

    def push(self, layout: Path, name: str, tag: str, *options: str) -> None:
        """Have skopeo copy the image `tag` of a layout to `name` (repository:tag)."""
        said = subprocess.run(
            ["skopeo", "copy", "--quiet", "--dest-tls-verify=false", *self.login, *options,
             f"oci:{layout}:{tag}", f"docker://{self.host}/{name}"],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
        assert said.returncode == 0, said.stdout


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as found:
        return int(found.getsockname()[1])


@contextlib.contextmanager
def running(
    folder: Path, *, tls: bool = False, users: bool = False, tokens: TokenServer | None = None
) -> Iterator[Registry]:
    """A docker-registry in `folder` until the block ends."""
    folder.mkdir(parents=True, exist_ok=True)
    registry = Registry(f"127.0.0.1:{free_port()}", folder)
    http: dict[str, Any] = {"addr": registry.host, "secret": "of these tests"}
    auth: dict[str, Any] = {}
    if tls:
        registry.authority, certificate, key = certificates(folder)
        http["tls"] = {"certificate": str(certificate), "key": str(key)}
    if users:
        (folder / "htpasswd").write_text(f"{HTPASSWD}\n")
        auth["htpasswd"] = {"realm": "tests", "path": str(folder / "htpasswd")}
    if tokens is not None:
        issued = {"service": "tests", "issuer": "tests", "rootcertbundle": str(tokens.certificate)}
        auth["token"] = {"realm": tokens.realm, **issued}
    if auth:
        registry.login = ("--dest-creds", f"{USER}:{PASSWORD}")
    settings = {
        "version": 0.1,
        "log": {"level": "error", "accesslog": {"disabled": True}},
        "storage": {"filesystem": {"rootdirectory": str(registry.storage)}},
        "http": http,
        "auth": auth,
    }
    (folder / "config.yml").write_text(json.dumps(settings))  # JSON is YAML
    with open(folder / "log", "wb") as log:
        process = subprocess.Popen(
            ["docker-registry", "serve", str(folder / "config.yml")],
            stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            env={},  # it takes REGISTRY_AUTH_FILE for a setting of its own
        )  # fmt: skip
    try:
        _await(registry, process)
        yield registry
    finally:
        process.kill()
        process.wait()


def _await(registry: Registry, process: subprocess.Popen[bytes]) -> None:
    host, _, port = registry.host.partition(":")
    deadline = time.monotonic() + DEADLINE
    while time.monotonic() < deadline:
        assert process.poll() is None, (registry.folder / "log").read_text()
        try:
            socket.create_connection((host, int(port)), 1).close()
            return
        except ConnectionRefusedError:
            time.sleep(0.02)
    raise AssertionError((registry.folder / "log").read_text())


def certificates(folder: Path) -> tuple[Path, Path, Path]:
    """The certificate of a new authority; certificate and key of 127.0.0.1, vouched for by it."""

    def openssl(*words: str | Path) -> None:
        subprocess.run(["openssl", *map(str, words)], check=True, capture_output=True)

    ca, ca_key, own, key = (folder / name for name in ("ca.crt", "ca.key", "own.crt", "own.key"))
    ec = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
    openssl(
        "req", "-x509", *ec, "-keyout", ca_key, "-out", ca, "-subj", "/CN=authority of tests", "-days", "2"
    )
    openssl("req", *ec, "-keyout", key, "-out", folder / "own.csr", "-subj", "/CN=127.0.0.1")
    (folder / "own.ext").write_text("subjectAltName=IP:127.0.0.1\n")
    openssl(
        *("x509", "-req", "-in", folder / "own.csr", "-CA", ca, "-CAkey", ca_key, "-CAcreateserial"),
        *("-out", own, "-days", "2", "-extfile", folder / "own.ext"),
    )
    return ca, own, key


# ---- tokens


@dataclass(slots=True)
class TokenServer:
    """Gives tokens that a docker-registry accepts, to alice, and to everyone for what is below `public/`."""

    folder: Path
    realm: str = ""
    lifetime: int = 60  # seconds
    refresh_token: str = "the identity of alice"
    asked: list[str] = field(default_factory=list)  # who, for each token given

    @property
    def certificate(self) -> Path:
        return self.folder / "token.crt"

    def make_key(self) -> None:
        subprocess.run(
            ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=tests",
             "-keyout", str(self.folder / "token.key"), "-out", str(self.certificate)],
            check=True, capture_output=True,
        )  # fmt: skip

    def token(self, who: str, scopes: list[str]) -> str:
        """A JSON web token that lets `who` do what the scopes (`repository:name:pull,push`) say."""
        now = int(time.time())
        access = []
        for scope in scopes:
            kind, name, actions = scope.split(":")
            access.append({"type": kind, "name": name, "actions": actions.split(",")})
        pem = self.certificate.read_text()
        head = {"typ": "JWT", "alg": "RS256", "x5c": ["".join(pem.splitlines()[1:-1])]}
        claims = {
            "iss": "tests", "sub": who, "aud": "tests", "jti": str(time.monotonic_ns()), "access": access,
            "iat": now, "nbf": now - 600, "exp": now + self.lifetime,
        }  # fmt: skip
        signed = b".".join(_base64(json.dumps(part).encode()) for part in (head, claims))
        signature = subprocess.run(
            ["openssl", "dgst", "-sha256", "-sign", str(self.folder / "token.key")],
            input=signed, capture_output=True, check=True,
        ).stdout  # fmt: skip
        return (signed + b"." + _base64(signature)).decode()


def _base64(data: bytes) -> bytes:
    return base64.urlsafe_b64encode(data).rstrip(b"=")


@contextlib.contextmanager
def token_server(folder: Path) -> Iterator[TokenServer]:
    folder.mkdir(parents=True, exist_ok=True)
    server = TokenServer(folder)
    server.make_key()
    basic = "Basic " + base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()

    def answer(request: Request) -> Answer:
        form = {**parse_qs(urlparse(request.path).query), **parse_qs(request.body.decode())}
        if request.headers.get("Authorization") == basic or form.get("refresh_token") == [
            server.refresh_token
        ]:
            who = USER
        elif "Authorization" in request.headers or "refresh_token" in form:
            return Answer(401)
        else:
            who = ""
        scopes = [scope for scope in form.get("scope", []) if who or scope.startswith("repository:public/")]
        server.asked.append(who)
        return Answer(200, json.dumps({"token": server.token(who, scopes)}).encode())

    with answering(answer) as host:
        server.realm = f"http://{host}/token"
        yield server
