"""A client of the OCI distribution protocol, reading only: documents and blobs, with logins and retries.

https://github.com/opencontainers/distribution-spec; logins: https://distribution.github.io/distribution/spec/auth.
"""

from __future__ import annotations

import base64
import contextlib
import ipaddress
import re
import time
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import requests
import requests.utils
import urllib3.exceptions
from msgspec.structs import replace

from vsprov.errors import ImageError
from vsprov.model.values import digests
from vsprov.model.values.image_reference import Reference
from vsprov.model.values.units import short
from vsprov.store.registry import credentials, untrusted_json
from vsprov.store.registry.access import Access, Client, Unreachable, denied, translate, trust
from vsprov.store.registry.credentials import Credentials
from vsprov.store.registry.download import Interrupted, Opened

T = TypeVar("T")

TRIES, PAUSE = 3, 1.0
DOCUMENT_TIMEOUT = 60.0  # seconds; READ_TIMEOUT does not stop a server that sends a byte now and then
_BLOCK = 128 << 10
_TRANSIENT = (408, 425, 429, 500, 502, 503, 504)


def connect(reference: Reference, insecure: bool) -> Access:
    """Find out whether the registry uses TLS, and which login it requires.

    Plain HTTP is used only with `insecure`, and for registries on this machine. Raises ImageError if the
    registry does not answer.
    """
    known = credentials.find(reference)
    trusted = None if insecure else trust(reference.host)
    may_be_plain = insecure or _is_loopback(reference.host)

    def probe() -> Access:
        access = Access(reference, "https", trusted, "token", known)
        try:
            return _with_login(access, Session(access).challenge())
        except Unreachable:
            if not may_be_plain:
                raise
        access = replace(access, scheme="http")
        return _with_login(access, Session(access).challenge())

    return _retry(probe)


def _is_loopback(host: str) -> bool:
    name = re.sub(r":[0-9]+\Z", "", host)
    if name == "localhost":
        return True
    try:
        return ipaddress.ip_address(name.strip("[]")).is_loopback
    except ValueError:
        return False


def _with_login(access: Access, challenge: str) -> Access:
    """`access` with the kind of login that the registry's `Www-Authenticate` asks for."""
    ways = {word.lower() for word in re.findall(r"(?:\A|,\s*)([A-Za-z]+)(?=\s|\Z)", challenge)}
    if "basic" not in ways or "bearer" in ways:
        return access
    if access.credentials is None or not access.credentials.user:
        raise denied(access)
    return replace(access, login="basic")


def _retry(work: Callable[[], T]) -> T:
    """The result of `work`, tried again a few times if the connection fails."""
    for _ in range(TRIES - 1):
        try:
            return work()
        except Interrupted:
            time.sleep(PAUSE)
    return work()


class Session:
    """The connections of one thread to the registry of one image."""

    def __init__(self, access: Access) -> None:
        self._access = access
        self._base = f"{access.scheme}://{access.reference.host}/v2/"
        self._client = Client(access)
        self._login: dict[str, str] = {}  # the header
        if access.login == "basic" and access.credentials is not None:
            self._login = _basic(access.credentials)

    def challenge(self) -> str:
        """The registry's `Www-Authenticate`; "" if it requires no login."""
        with self._get(self._base) as response:
            if response.status_code == 401:
                return str(response.headers.get("Www-Authenticate", ""))
            if response.status_code in _TRANSIENT:
                raise self._failure(response)
            if response.status_code not in (200, 403):
                raise ImageError(
                    f"{self._access.label}: {self._host}: the server there is not a container registry "
                    f"(HTTP status {response.status_code})",
                    hint="check the host and the port",
                )
        return ""

    def document(self, path: str, accept: str) -> bytes:
        """The document at `path` below the repository, at most `untrusted_json.LIMIT` bytes."""

        def ask() -> bytes:
            with self._open(path, {"Accept": accept}) as response:
                if response.status_code == 404:
                    raise self._not_found(path)
                return self._read(response)

        return _retry(ask)

    def blob(self, digest: str, offset: int) -> Opened:
        """A blob from `offset` on, or from 0 if the registry supports no ranges. Tried once."""
        with contextlib.ExitStack() as stack:
            headers = {"Range": f"bytes={offset}-"} if offset else {}
            response = stack.enter_context(self._open(f"blobs/{digests.full(digest)}", headers))
            if response.status_code == 404:
                raise ImageError(
                    f"{self._access.label}: {self._host} has no layer {digests.full(digest)}",
                    hint="the image is damaged in the registry: push it again",
                )
            start = re.match(r"bytes ([0-9]{1,18})-", response.headers.get("Content-Range", ""))
            if response.status_code == 206 and start and int(start[1]) == offset:
                return offset, self._blocks(response, stack.pop_all())
            if response.status_code == 200:
                return 0, self._blocks(response, stack.pop_all())
            if not offset:
                raise self._failure(response)
        return self.blob(digest, 0)

    def _blocks(self, response: requests.Response, stack: contextlib.ExitStack) -> Iterator[bytes]:
        with stack:
            while True:
                with self._translated():
                    block: bytes = response.raw.read(_BLOCK, decode_content=False)
                if not block:
                    return
                yield block

    @property
    def _host(self) -> str:
        return self._access.reference.host

    @contextlib.contextmanager
    def _open(self, path: str, headers: dict[str, str]) -> Iterator[requests.Response]:
        """The answer about `path`, after a login if need be: 200, 206, 404 or 416, ImageError otherwise."""
        url = f"{self._base}{self._access.reference.repository}/{path}"
        response = self._get(url, headers=headers | self._login)
        if response.status_code in (401, 403):
            response.close()
            self._log_in(response)
            response = self._get(url, headers=headers | self._login)
        with response, self._translated():
            if response.status_code not in (200, 206, 404, 416):
                raise self._failure(response)
            yield response

    def _get(self, url: str, **more: Any) -> requests.Response:
        with self._translated():
            return self._client.get(url, stream=True, verify=self._access.verify, **more)

    def _log_in(self, refused: requests.Response) -> None:
        """Get a new token as the answer `refused` asks for it."""
        if refused.history:
            # A redirect must not decide where our credentials are sent (CVE-2020-15157).
            raise ImageError(
                f"{self._access.label}: {self._host} redirects to a server that answers with HTTP status "
                f"{refused.status_code}: credentials are sent to the registry only"
            )
        challenge = re.search(r"(?i)\bbearer\b(.*)", refused.headers.get("Www-Authenticate", ""))
        if self._access.login != "token" or challenge is None:
            raise denied(self._access)
        asked = requests.utils.parse_dict_header(challenge[1])
        realm = asked.get("realm")
        if not realm:
            raise ImageError(f"{self._access.label}: {self._host} requires a token and names no token server")
        url = realm if re.match("https?://", realm) else f"{self._access.scheme}://{realm}"
        fields = {"scope": asked.get("scope") or f"repository:{self._access.reference.repository}:pull"}
        if service := asked.get("service"):
            fields["service"] = service
        self._login = {"Authorization": f"Bearer {self._new_token(url, fields)}"}

    def _new_token(self, url: str, fields: dict[str, str]) -> str:
        who = f"{self._access.label}: the token server of {self._host}"
        with self._ask_for_token(url, fields) as response, self._translated():
            if response.status_code in (401, 403):
                raise denied(self._access)
            if response.status_code != 200:
                kind = Interrupted if response.status_code in _TRANSIENT else ImageError
                raise kind(f"{who}: HTTP status {response.status_code}")
            content = untrusted_json.parse(self._read(response), self._access.label)
        token = content.get("token") or content.get("access_token")
        if not isinstance(token, str) or not re.fullmatch(r"[\x21-\x7e]+", token):
            raise ImageError(f"{who}: its answer contains no token")
        return token

    def _ask_for_token(self, url: str, fields: dict[str, str]) -> requests.Response:
        known = self._access.credentials
        if known is None or not known.identity_token:
            return self._get(url, params=fields, headers=_basic(known) if known is not None else {})
        form = {"grant_type": "refresh_token", "refresh_token": known.identity_token, "client_id": "vsprov"}
        with self._translated():
            # No redirects: the form, with the identity token, would be sent along.
            return self._client.post(
                url, data=fields | form, stream=True, verify=self._access.verify, allow_redirects=False
            )

    def _read(self, response: requests.Response) -> bytes:
        """The body of an answer that is a document."""
        label = self._access.label
        data = bytearray()
        end = time.monotonic() + DOCUMENT_TIMEOUT
        while block := response.raw.read1(64 << 10, decode_content=True):
            if time.monotonic() > end:
                raise ImageError(
                    f"{label}: {self._host} took more than {DOCUMENT_TIMEOUT:.0f} s for one document"
                )
            data += block
            if len(data) > untrusted_json.LIMIT:
                raise untrusted_json.too_large(label)
        return bytes(data)

    def _failure(self, response: requests.Response) -> ImageError:
        """The error for an answer that cannot be used; Interrupted if a later one may differ."""
        message = f"{self._access.label}: {self._host}: HTTP status {response.status_code}"
        if response.status_code in (401, 403):
            return denied(self._access)
        if response.status_code == 429:
            return Interrupted(
                f"{message}: too many requests", hint="wait, or log in for a higher rate limit"
            )
        return Interrupted(message) if response.status_code in _TRANSIENT else ImageError(message)

    def _not_found(self, path: str) -> ImageError:
        """The error for a document that does not exist; for a tag, with the tags that do."""
        wanted = self._access.reference
        if path != f"manifests/{wanted.tag}":
            kind, _, name = path.partition("/")
            return ImageError(
                f"{wanted}: {self._host} has no {kind.rstrip('s')} {name}",
                hint=f"check the digest: skopeo inspect docker://{wanted.name}",
            )
        hint = f"list the tags: skopeo list-tags docker://{wanted.name}"
        try:
            tags = self._tags()
        except ImageError:  # some registries give the image and not the list, which is a courtesy anyway
            return ImageError(f"{wanted}: {self._host} has no tag {wanted.tag}", hint=hint)
        if tags is None:
            return ImageError(f"{wanted}: {self._host} has no repository {wanted.repository}", hint=hint)
        existing = short(", ".join(sorted(tags)), ascii) if tags else "none"
        return ImageError(f"{wanted}: {self._host} has no tag {wanted.tag}: it has {existing}", hint=hint)

    def _tags(self) -> tuple[str, ...] | None:
        """The tags of the repository; None if there is no such repository."""
        label = self._access.label
        with self._open("tags/list", {"Accept": "application/json"}) as response:
            if response.status_code == 404:
                return None
            return untrusted_json.words(untrusted_json.parse(self._read(response), label), "tags", label)

    @contextlib.contextmanager
    def _translated(self) -> Iterator[None]:
        """Raise what the libraries raise as ImageError; as Interrupted if another try may help."""
        try:
            yield
        except ImageError:
            raise
        except (OSError, ValueError, urllib3.exceptions.HTTPError) as error:
            raise translate(error, self._access) from error


def _basic(known: Credentials) -> dict[str, str]:
    """The header for user and password."""
    return {"Authorization": f"Basic {base64.b64encode(f'{known.user}:{known.password}'.encode()).decode()}"}
