"""Speaking to one registry: TLS, logging in, trying again, and saying what went wrong.

The protocol is that of the library oras. Here is what it leaves to its callers: limits of time, trying again
for seconds and not for minutes, tokens that have run out, and credentials that reach nobody else.
"""

from __future__ import annotations

import contextlib
import dataclasses
import ipaddress
import logging
import re
import time
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import oras.auth.token
import oras.auth.utils
import oras.provider
import requests
import urllib3.exceptions

from vsprov.errors import ImageError
from vsprov.model.image_reference import Reference
from vsprov.model.units import short
from vsprov.store.registry import credentials, untrusted_json
from vsprov.store.registry.access import Access, Adapter, Unreachable, denied, refusal, trust
from vsprov.store.registry.download import Interrupted, Opened

T = TypeVar("T")

TRIES, PAUSE = 3, 1.0
DOCUMENT_TIMEOUT = 60.0  # seconds: one who gives a byte now and then never keeps silent for too long
_BLOCK = 128 << 10
_PASSING = (408, 425, 429, 500, 502, 503, 504)  # what may be otherwise a moment later
_PLAIN = {"Accept-Encoding": "identity"}  # sums and offsets are of the bytes as they are kept

logging.getLogger("oras.logger").disabled = True  # it prints, and not only what went wrong


def connect(reference: Reference, insecure: bool) -> Access:
    """Find out whether the registry speaks TLS, and how it wants us to log in.

    Plain http is for `insecure` ones, and for those on this machine. Raises ImageError for a registry that
    does not answer.
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
        access = dataclasses.replace(access, scheme="http")
        return _with_login(access, Session(access).challenge())

    return _persist(probe)


def _is_loopback(host: str) -> bool:
    name = re.sub(r":[0-9]+\Z", "", host)
    if name == "localhost":
        return True
    try:
        return ipaddress.ip_address(name.strip("[]")).is_loopback
    except ValueError:
        return False


def _with_login(access: Access, challenge: str) -> Access:
    """`access` with the way of logging in that the registry's `Www-Authenticate` asks for."""
    ways = {word.lower() for word in re.findall(r"(?:\A|,\s*)([A-Za-z]+)(?=\s|\Z)", challenge)}
    if "basic" not in ways or "bearer" in ways:
        return access
    if access.credentials is None or not access.credentials.user:
        raise denied(access)
    return dataclasses.replace(access, login="basic")


def _persist(work: Callable[[], T]) -> T:
    """What `work` gives, tried again a few times while the connection fails."""
    for _ in range(TRIES - 1):
        try:
            return work()
        except Interrupted:
            time.sleep(PAUSE)
    return work()


class Session:
    """One thread's connections to the registry of one image."""

    def __init__(self, access: Access) -> None:
        self._access = access
        self._last: requests.Response | None = None  # to be closed when what comes after it fails
        self._base = f"{access.scheme}://{access.reference.host}/v2/"
        self._oras = oras.provider.Registry(
            hostname=access.reference.host,
            insecure=access.scheme == "http",
            tls_verify=access.verify,
            auth_backend=access.login,
        )
        session = self._oras.session
        session.auth = lambda request: request  # else requests sends what ~/.netrc holds instead
        session.hooks["response"].append(self._note)
        session.adapters.clear()
        adapter = Adapter(access.trusted)
        session.mount("https://", adapter)
        if access.scheme == "http" or not access.verify:
            session.mount("http://", adapter)  # else nothing may lead away from TLS
        if access.login == "token":
            self._oras.auth = _Token(self._oras, access)
        elif access.credentials is not None:
            self._oras.auth.set_basic_auth(access.credentials.user, access.credentials.password)

    def _note(self, response: requests.Response, **more: object) -> None:
        self._last = response

    def challenge(self) -> str:
        """How the registry wants a client to log in: its `Www-Authenticate`, "" when it does not."""
        with self._translated():
            response = self._oras.session.get(self._base, stream=True, verify=self._access.verify)
            response.close()
        if response.status_code == 401:
            return str(response.headers.get("Www-Authenticate", ""))
        if response.status_code in _PASSING:
            raise self._answered(response)
        if response.status_code not in (200, 403):
            raise ImageError(
                f"{self._access.shown}: {self._host}: what answers there is no registry "
                f"(HTTP status {response.status_code})",
                hint="see whether the host and the port are right",
            )
        return ""

    def document(self, path: str, accept: str) -> bytes:
        """The document at `path` below the repository, at most `untrusted_json.LIMIT` bytes."""

        def ask() -> bytes:
            with self._asked(path, {**_PLAIN, "Accept": accept}) as response:
                if response.status_code == 404:
                    raise self._unknown(path)
                return _limited(response, self._access.shown)

        return _persist(ask)

    def blob(self, digest: str, offset: int) -> Opened:
        """A blob from `offset` on, or from 0 where the registry cannot begin elsewhere. One try."""
        headers = {**_PLAIN, "Range": f"bytes={offset}-"} if offset else dict(_PLAIN)
        stack = contextlib.ExitStack()
        response = stack.enter_context(self._asked(f"blobs/sha256:{digest}", headers))
        if response.status_code == 404:
            stack.close()
            raise ImageError(
                f"{self._access.shown}: {self._host} has no layer sha256:{digest}",
                hint="the image is damaged in the registry: push it again",
            )
        begins = re.match(r"bytes ([0-9]{1,18})-", response.headers.get("Content-Range", ""))
        if response.status_code == 206 and begins and int(begins[1]) == offset:
            return offset, self._blocks(response, stack)
        if response.status_code == 200:
            return 0, self._blocks(response, stack)
        stack.close()
        if offset:
            return self.blob(digest, 0)
        raise self._answered(response)

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
    def _asked(self, path: str, headers: dict[str, str]) -> Iterator[requests.Response]:
        """The answer to one request: 200, 206, 404 or 416; ImageError for every other."""
        url = f"{self._base}{self._access.reference.repository}/{path}"
        if self._access.login == "basic":
            headers = {**headers, **self._oras.auth.get_auth_header()}
        with self._translated():
            # Without its decorator, which tries again for minutes.
            ask = oras.provider.Registry.do_request.__wrapped__
            response: requests.Response = ask(self._oras, url, headers=headers, stream=True)
        with contextlib.closing(response):
            if response.status_code not in (200, 206, 404, 416):
                raise self._answered(response)
            with self._translated():
                yield response

    def _answered(self, response: requests.Response) -> ImageError:
        """The error for an answer that nothing can be done with."""
        said = f"{self._access.shown}: {self._host}: HTTP status {response.status_code}"
        if response.status_code in (401, 403):
            return denied(self._access)
        if response.status_code == 429:
            return Interrupted(
                f"{said}: too many requests", hint="wait a while, or log in: some let you ask more"
            )
        return Interrupted(said) if response.status_code in _PASSING else ImageError(said)

    def _unknown(self, path: str) -> ImageError:
        """The error for a document that is not there, with the tags that are."""
        wanted = self._access.reference
        if path != f"manifests/{wanted.tag}":
            kind, _, name = path.partition("/")
            return ImageError(
                f"{wanted}: {self._host} has no {kind.rstrip('s')} {name}",
                hint=f"see whether the digest is right: skopeo inspect docker://{wanted.name}",
            )
        hint = f"skopeo list-tags docker://{wanted.name} lists what there is"
        try:
            tags = self._tags()
        except ImageError:  # some show no list to those they give images to; it would only be a courtesy
            return ImageError(f"{wanted}: {self._host} has no tag {wanted.tag}", hint=hint)
        if tags is None:
            return ImageError(f"{wanted}: {self._host} has no repository {wanted.repository}", hint=hint)
        there = f"it has {short(', '.join(sorted(tags)), ascii)}" if tags else "it has none"
        return ImageError(f"{wanted}: {self._host} has no tag {wanted.tag}: {there}", hint=hint)

    def _tags(self) -> tuple[str, ...] | None:
        """The tags of the repository; None when there is no such repository."""
        shown = self._access.shown
        with self._asked("tags/list", {**_PLAIN, "Accept": "application/json"}) as response:
            if response.status_code == 404:
                return None
            return untrusted_json.words(untrusted_json.parse(_limited(response, shown), shown), "tags", shown)

    @contextlib.contextmanager
    def _translated(self) -> Iterator[None]:
        """Whatever the libraries raise, as an ImageError; Interrupted where another try may help."""
        try:
            yield
        except ImageError:
            raise
        except (OSError, ValueError, urllib3.exceptions.HTTPError) as error:
            if self._last is not None:
                self._last.close()
            raise refusal(error, self._access) from error


class _Token(oras.auth.token.TokenAuth):  # type: ignore[misc]
    """Tokens from where the registry says, for what it says; https://distribution.github.io/distribution/spec/auth."""

    def __init__(self, provider: Any, access: Access) -> None:
        super().__init__()
        self.session = provider.session
        self.prefix = access.scheme
        self._tls_verify = access.verify
        self._access = access

    def authenticate_request(
        self, original: requests.Response, headers: dict[str, str], refresh: bool = False
    ) -> tuple[dict[str, str], bool]:
        """As the library has it, but for a token that has run out, and for who may ask for credentials."""
        original.close()
        if original.history:
            # Where the registry sent us must not say where our credentials go (CVE-2020-15157).
            raise ImageError(
                f"{self._access.shown}: the address that {self._access.reference.host} leads to answers with "
                f"HTTP status {original.status_code}: credentials are for the registry only"
            )
        refused = self.token is not None and headers.get("Authorization") == f"Bearer {self.token}"
        if "bearer" not in original.headers.get("Www-Authenticate", "").lower():
            raise denied(self._access)
        return super().authenticate_request(original, headers, refresh or refused)  # type: ignore[no-any-return]

    def request_anonymous_token(self, h: Any) -> str | None:
        return None  # `request_token` is asked next, and does both

    def request_token(self, h: Any) -> str:
        """A token from the server that the registry names; ImageError when it gives none."""
        if not h.realm:
            raise ImageError(f"{self._access.shown}: its registry asks for a token and does not say whose")
        url = h.realm if re.match("https?://", h.realm) else f"{self.prefix}://{h.realm}"
        scope = h.scope or f"repository:{self._access.reference.repository}:pull"
        asked = {"scope": scope, **({"service": h.service} if h.service else {})}
        with contextlib.closing(self._ask(url, asked)) as response:
            status = response.status_code
            if status in (401, 403):
                raise denied(self._access)
            if status != 200:
                kind = Interrupted if status in _PASSING else ImageError
                raise kind(f"{self._access.shown}: the server of its tokens: HTTP status {status}")
            content = untrusted_json.parse(_limited(response, self._access.shown), self._access.shown)
        token = content.get("token") or content.get("access_token")
        if not isinstance(token, str) or not re.fullmatch(r"[\x21-\x7e]+", token):
            raise ImageError(f"{self._access.shown}: the server of its tokens gives none")
        return token

    def _ask(self, url: str, asked: dict[str, str]) -> requests.Response:
        known = self._access.credentials
        more: dict[str, Any] = {"verify": self._tls_verify, "stream": True}
        if known is not None and known.identity_token:
            form = {
                "grant_type": "refresh_token",
                "refresh_token": known.identity_token,
                "client_id": "vsprov",
            }
            # No redirect: it would take the token in the form along.
            return self.session.post(url, data={**asked, **form}, allow_redirects=False, **more)  # type: ignore[no-any-return]
        headers = {}
        if known is not None:
            headers["Authorization"] = f"Basic {oras.auth.utils.get_basic_auth(known.user, known.password)}"
        return self.session.get(url, params=asked, headers=headers, **more)  # type: ignore[no-any-return]


def _limited(response: requests.Response, shown: str) -> bytes:
    """The body of an answer, which must be no longer than a document may be."""
    data = bytearray()
    end = time.monotonic() + DOCUMENT_TIMEOUT
    while block := response.raw.read1(64 << 10, decode_content=True):
        if time.monotonic() > end:
            raise ImageError(
                f"{shown}: its registry takes more than {DOCUMENT_TIMEOUT:.0f} s for one document"
            )
        data += block
        if len(data) > untrusted_json.LIMIT:
            raise untrusted_json.too_large(shown)
    return bytes(data)
