"""Downloads from servers that lie, and that mean harm."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests import registry as lab
from tests.http_servers import Answer, Request, answering
from tests.kernel.downloads import BLOB, DIGEST, MIB, held, parts, refusal, sha256
from vsprov.errors import FailedError
from vsprov.store.registry import download, untrusted_json
from vsprov.store.registry.oci_documents import Descriptor

pytestmark = pytest.mark.usefixtures("nobody")


class Server:
    """The least of a registry: v2, and the blob BLOB at every address; `answer` changes what it says."""

    def __init__(self) -> None:
        self.host = ""
        self.asked: list[Request] = []
        self.answer: Callable[[Request], Answer | None] = lambda request: None

    def __call__(self, request: Request) -> Answer:
        self.asked.append(request)
        changed = self.answer(request)
        if changed is not None:
            return changed
        if request.path == "/v2/":
            return Answer(200)
        begins = re.match("bytes=([0-9]+)-", request.headers.get("Range", ""))
        if begins:
            start = int(begins[1])
            return Answer(206, BLOB[start:], {"Content-Range": f"bytes {start}-{len(BLOB) - 1}/{len(BLOB)}"})
        return Answer(200, BLOB)

    @property
    def ranges(self) -> list[str]:
        return [each.headers.get("Range", "") for each in self.asked if "/blobs/" in each.path]


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server()
    with answering(made) as made.host:
        yield made


LAYER = Descriptor("application/vnd.oci.image.layer.v1.tar", DIGEST, len(BLOB))


def fetched(tmp_path: Path, server: Server, layer: Descriptor = LAYER) -> str:
    return parts(tmp_path, f"{server.host}/app:1").layer(layer, lab.quiet)


def begun(tmp_path: Path, data: bytes, name: str = f"{DIGEST}.part") -> None:
    (tmp_path / "downloads").mkdir()
    (tmp_path / "downloads" / name).write_bytes(data)


def test_a_part_is_gone_on_with(tmp_path: Path, server: Server) -> None:
    begun(tmp_path, BLOB[:MIB])
    assert sha256(fetched(tmp_path, server)) == DIGEST
    assert server.ranges == [f"bytes={MIB}-"] and held(tmp_path) == {"whole": 3 * MIB}


def test_a_part_that_is_whole_is_not_asked_for(tmp_path: Path, server: Server) -> None:
    begun(tmp_path, BLOB)
    assert sha256(fetched(tmp_path, server)) == DIGEST
    assert server.ranges == [] and held(tmp_path) == {"whole": 3 * MIB}


@pytest.mark.parametrize("part", [b"wrong" * 1000, BLOB[:MIB] + b"wrong", BLOB + b"more", b"x" * len(BLOB)])
def test_a_part_of_something_else_is_done_away_with(tmp_path: Path, server: Server, part: bytes) -> None:
    begun(tmp_path, part)
    assert sha256(fetched(tmp_path, server)) == DIGEST
    assert server.ranges[-1] == "" and held(tmp_path) == {"whole": 3 * MIB}


def test_a_blob_that_is_there_is_used_when_it_is_right_and_only_then(tmp_path: Path, server: Server) -> None:
    begun(tmp_path, BLOB, DIGEST)
    assert sha256(fetched(tmp_path, server)) == DIGEST and server.ranges == []
    # A power cut after a rename can leave a file of the right size that holds zeros.
    (tmp_path / "downloads" / DIGEST).write_bytes(bytes(len(BLOB)))
    assert sha256(fetched(tmp_path, server)) == DIGEST and server.ranges == [""]
    assert held(tmp_path) == {"whole": 3 * MIB}


def test_a_link_in_the_place_of_a_part_is_not_followed(tmp_path: Path, server: Server) -> None:
    (tmp_path / "downloads").mkdir()
    (tmp_path / "precious").write_bytes(b"precious")
    (tmp_path / "downloads" / f"{DIGEST}.part").symlink_to(tmp_path / "precious")
    with pytest.raises(FailedError, match="Too many levels of symbolic links"):
        fetched(tmp_path, server)
    assert (tmp_path / "precious").read_bytes() == b"precious"


@pytest.mark.parametrize(
    "answer",
    [
        Answer(200, BLOB),
        Answer(416),
        Answer(206, BLOB[:7], {"Content-Range": f"bytes 0-6/{len(BLOB)}"}),
        Answer(206, BLOB),
        Answer(206, BLOB, {"Content-Range": "bytes elsewhere"}),
    ],
)
def test_a_server_that_cannot_begin_in_the_middle_is_asked_for_all(
    tmp_path: Path, server: Server, answer: Answer
) -> None:
    begun(tmp_path, BLOB[:MIB])
    server.answer = lambda request: answer if "Range" in request.headers else None
    assert sha256(fetched(tmp_path, server)) == DIGEST
    assert held(tmp_path) == {"whole": 3 * MIB}


def test_a_server_that_begins_elsewhere_than_it_says_cannot_spoil_a_blob(
    tmp_path: Path, server: Server
) -> None:
    begun(tmp_path, BLOB[:MIB])
    lie = Answer(206, BLOB[:-MIB], {"Content-Range": f"bytes {MIB}-{len(BLOB) - 1}/{len(BLOB)}"})
    server.answer = lambda request: lie if "Range" in request.headers else None
    assert sha256(fetched(tmp_path, server)) == DIGEST


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (BLOB + b"x", f"layer: expected {len(BLOB)} bytes, got more"),
        (BLOB[:-1] + b"x", f"layer: expected sha256:{DIGEST}, got sha256:"),
    ],
)
def test_a_blob_that_is_longer_or_another_is_deleted_and_refused(
    tmp_path: Path, server: Server, body: bytes, words: str
) -> None:
    server.answer = lambda request: Answer(200, body) if "/blobs/" in request.path else None
    assert words in refusal(lambda: fetched(tmp_path, server))
    assert held(tmp_path) == {}


def test_an_empty_blob_needs_no_asking(tmp_path: Path, server: Server) -> None:
    empty = Descriptor(LAYER.media_type, hashlib.sha256(b"").hexdigest(), 0)
    assert Path(fetched(tmp_path, server, empty)).read_bytes() == b"" and server.ranges == []


@pytest.mark.parametrize("status", [429, 500, 503])
def test_what_may_pass_is_tried_again(tmp_path: Path, server: Server, status: int) -> None:
    def busy(request: Request) -> Answer | None:
        return Answer(status) if len(server.asked) in (1, 3) else None

    server.answer = busy
    assert sha256(fetched(tmp_path, server)) == DIGEST
    assert [each.path.count("/blobs/") for each in server.asked] == [0, 0, 1, 1]


@pytest.mark.parametrize(
    ("status", "words", "times"),
    [
        (403, "requires authentication", 1),
        (404, f"has no layer sha256:{DIGEST}", 1),
        (418, "HTTP status 418", 1),
        (429, "HTTP status 429: too many requests", download.TRIES),
        (502, "HTTP status 502", download.TRIES),
    ],
)
def test_what_does_not_pass_is_told(
    tmp_path: Path, server: Server, status: int, words: str, times: int
) -> None:
    server.answer = lambda request: Answer(status) if "/blobs/" in request.path else None
    assert words in refusal(lambda: fetched(tmp_path, server))
    assert len(server.ranges) == times
    assert held(tmp_path) in ({}, {"whole.part": 0})


def test_a_document_larger_than_any_should_be_is_not_read_to_its_end(tmp_path: Path, server: Server) -> None:
    server.answer = lambda request: (
        Answer(200, b" " * (untrusted_json.LIMIT + 1)) if "/manifests/" in request.path else None
    )
    assert "document larger than 4 MiB" in refusal(parts(tmp_path, f"{server.host}/app:1").find)


@pytest.mark.parametrize(
    ("tags", "words"),
    [
        (Answer(401), "has no tag 1"),
        (Answer(500), "has no tag 1"),
        (Answer(200, b"{"), "has no tag 1"),
        (Answer(200, b'{"tags": null}'), "has no tag 1: it has none"),
        (Answer(200, b'{"tags": ["b", "\\u001b[2J"]}'), "has no tag 1: it has '\\x1b[2J, b'"),
        (Answer(404), "has no repository app"),
    ],
)
def test_an_unknown_tag_is_told_as_such_whatever_the_list_of_tags_is(
    tmp_path: Path, server: Server, tags: Answer, words: str
) -> None:
    server.answer = lambda request: (
        tags if request.path.endswith("/tags/list") else Answer(404) if "manifests" in request.path else None
    )
    said = refusal(parts(tmp_path, f"{server.host}/app:1").find)
    assert said == f"{server.host}/app:1: {server.host} {words}"


@pytest.mark.parametrize(
    "target",
    [
        "http://127.0.0.1:99999/",
        "http://[/",
        "ftp://127.0.0.1/",
        "http://",
        "http://a..b/",
        "/\x7f",
        "//\x80",
    ],
)
def test_an_address_that_is_none_is_refused(tmp_path: Path, server: Server, target: str) -> None:
    server.answer = lambda request: (
        Answer(307, headers={"Location": target}) if "/manifests/" in request.path else None
    )
    assert refusal(parts(tmp_path, f"{server.host}/app:1").find).startswith(f"{server.host}/app:1: ")


def test_endless_redirects_are_refused(tmp_path: Path, server: Server) -> None:
    server.answer = lambda request: Answer(307, headers={"Location": request.path})
    assert refusal(parts(tmp_path, f"{server.host}/app:1").find).startswith(f"{server.host}/app:1: ")


# -- credentials reach the registry and its server of tokens, and nobody else


def wants(way: str) -> Answer:
    return Answer(401, headers={"Www-Authenticate": way})


def leads(target: str) -> Answer:
    return Answer(307, headers={"Location": target})


def test_a_redirect_to_another_host_takes_no_credentials_along(tmp_path: Path, server: Server) -> None:
    def send_on(request: Request) -> Answer | None:
        if "Authorization" not in request.headers:
            return wants('Basic realm="x"')
        return leads(f"http://{elsewhere}{request.path}") if "/blobs/" in request.path else None

    other = Server()
    with answering(other) as elsewhere:
        server.answer = send_on
        lab.log_in(tmp_path, server.host, "hunter2")
        assert sha256(fetched(tmp_path, server)) == DIGEST
    assert [each.headers.get("Authorization") for each in other.asked] == [None]


def test_a_redirect_takes_along_nothing_that_netrc_holds(tmp_path: Path, server: Server) -> None:
    (tmp_path / ".netrc").write_text("machine 127.0.0.1 login alice password hunter2\n")
    server.answer = lambda request: (
        leads(f"http://{elsewhere}{request.path}") if "/blobs/" in request.path else None
    )
    other = Server()
    with answering(other) as elsewhere:
        assert sha256(fetched(tmp_path, server)) == DIGEST
    assert [each.headers.get("Authorization") for each in (*server.asked, *other.asked)] == [None] * 3


@pytest.mark.parametrize("way", ['Bearer realm="http://{host}/token"', 'Basic realm="x"'])
def test_who_a_redirect_leads_to_cannot_ask_for_credentials(tmp_path: Path, server: Server, way: str) -> None:
    thief = Server()
    with answering(thief) as elsewhere:
        thief.answer = lambda request: wants(way.format(host=elsewhere))
        server.answer = lambda request: (
            Answer(307, headers={"Location": f"http://{elsewhere}/"}) if "/blobs/" in request.path else None
        )
        lab.log_in(tmp_path, server.host, "hunter2")
        assert "status 401: credentials are sent to the registry only" in refusal(
            lambda: fetched(tmp_path, server)
        )
    assert [each.headers.get("Authorization") for each in thief.asked] == [None]


@pytest.mark.requires("openssl")
@pytest.mark.parametrize("answer", ["redirect", "token"])
def test_nothing_leads_away_from_tls(
    tmp_path: Path, server: Server, answer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    authority, *own = lab.certificates(tmp_path)
    monkeypatch.setenv("SSL_CERT_FILE", str(authority))
    away = {
        "redirect": lambda request: (
            leads(f"http://{server.host}/") if "/blobs/" in request.path else Answer(200)
        ),
        "token": lambda request: wants(f'Bearer realm="http://{server.host}/token"'),
    }
    with answering(away[answer], (own[0], own[1])) as host:
        lab.log_in(tmp_path, host, "hunter2")
        said = refusal(lambda: parts(tmp_path, f"{host}/app:1").layer(LAYER, lab.quiet))
    assert said == f"{host}/app:1: {host}: refused to follow a redirect to a URL without TLS"
    assert server.asked == []


def test_a_token_that_has_run_out_is_asked_for_again(tmp_path: Path, server: Server) -> None:
    given: list[str] = []

    def answer(request: Request) -> Answer | None:
        if request.path.startswith("/token"):
            given.append(f"token{len(given)}")
            return Answer(200, json.dumps({"access_token": given[-1]}).encode())
        if "/blobs/" in request.path and server.ranges[1:] == []:
            return wants(bearer)  # the first token has run out, or there is none yet
        valid = given and request.headers.get("Authorization") == f"Bearer {given[-1]}"
        return None if valid or request.path == "/v2/" else wants(bearer)

    bearer = f'Bearer realm="http://{server.host}/token",service="x",scope="repository:app:pull"'
    server.answer = answer
    image = parts(tmp_path, f"{server.host}/app:1")
    refusal(image.find)  # what it gets is no manifest; the token it got stays with it
    assert given == ["token0"]
    assert sha256(image.layer(LAYER, lab.quiet)) == DIGEST
    assert given == ["token0", "token1"]


@pytest.mark.parametrize(
    ("way", "answer"),
    [
        ("Bearer", Answer(200)),
        ('Bearer service="x"', Answer(200)),
        ('Bearer realm="ftp://x/"', Answer(200)),
        ("Negotiate", Answer(200)),
        ("", Answer(200)),
        ("Bearer {}", Answer(200, b"")),
        ("Bearer {}", Answer(200, b"[]")),
        ("Bearer {}", Answer(200, b"{}")),
        ("Bearer {}", Answer(200, b'{"token": 7}')),
        ("Bearer {}", Answer(200, b'{"token": "a\\r\\nb: c"}')),
        ("Bearer {}", Answer(200, b"[" * 100_000)),
        ("Bearer {}", Answer(200, b" " * (untrusted_json.LIMIT + 1))),
        ("Bearer {}", Answer(307, headers={"Location": "http://["})),
        ("Bearer {}", Answer(404)),
        ("Bearer {}", Answer(503)),
    ],
)
def test_whatever_a_server_of_tokens_says_ends_in_one_line(
    tmp_path: Path, server: Server, way: str, answer: Answer, capfd: pytest.CaptureFixture[str]
) -> None:
    way = way.format(f'realm="http://{server.host}/token"')
    server.answer = lambda request: answer if request.path.startswith("/token") else wants(way)
    lab.log_in(tmp_path, server.host, "hunter2")
    said = refusal(parts(tmp_path, f"{server.host}/app:1").find)
    assert said.startswith(f"{server.host}/app:1: ") and "hunter2" not in said
    assert capfd.readouterr() == ("", "")
