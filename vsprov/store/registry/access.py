"""The HTTP client for one registry: certificates, time limits, redirects, and what its errors mean."""

from __future__ import annotations

import glob
import socket
import ssl
from typing import Any

import requests
import requests.adapters
import requests.certs
import urllib3
import urllib3.exceptions
from msgspec import Struct

from vsprov.errors import ImageError, reason
from vsprov.model.values.image_reference import Reference
from vsprov.store.registry.credentials import Credentials
from vsprov.store.registry.download import Interrupted

# Seconds. The kernel sends SYN at 0, 1, 3 and 7 s; tcp(7), tcp_syn_retries.
CONNECT_TIMEOUT, READ_TIMEOUT = 8.0, 20.0
# containers-certs.d(5); docker reads the same layout below its own directory.
CERTIFICATES = ("/etc/containers/certs.d", "/etc/docker/certs.d")


class Access(Struct, frozen=True):
    """How to reach the registry of one image, once that is known."""

    reference: Reference
    scheme: str
    trusted: ssl.SSLContext | None  # None: any certificate
    login: str  # "basic" or "token"
    credentials: Credentials | None

    @property
    def verify(self) -> bool:
        return self.trusted is not None

    @property
    def label(self) -> str:
        """The image, for error messages."""
        return str(self.reference)


class Unreachable(Interrupted):
    """There was no answer, or an incomplete one."""


class Client(requests.Session):
    """An HTTP session that sends credentials nowhere but to the registry."""

    def __init__(self, access: Access) -> None:
        super().__init__()
        # Offsets and checksums are those of the stored bytes.
        self.headers.update({"Accept-Encoding": "identity", "User-Agent": "vsprov"})
        self.auth = lambda request: request  # without it, requests sends what ~/.netrc has for the host
        self.hooks["response"].append(_discard_redirect_body)
        self.adapters.clear()
        adapter = _Adapter(access.trusted)
        self.mount("https://", adapter)
        if access.scheme == "http" or not access.verify:
            self.mount("http://", adapter)  # otherwise no redirect may leave TLS
        if not access.verify:
            urllib3.disable_warnings(urllib3.exceptions.InsecureRequestWarning)  # `insecure` asked for it

    def rebuild_auth(self, prepared_request: requests.PreparedRequest, response: requests.Response) -> None:
        """Remove the credentials where a redirect leads to another host, and do not look into ~/.netrc."""
        if self.should_strip_auth(str(response.request.url), str(prepared_request.url)):
            prepared_request.headers.pop("Authorization", None)


def _discard_redirect_body(response: requests.Response, **_: object) -> None:
    """Close a redirect before requests reads its body to the end, which a hostile server never reaches."""
    if response.is_redirect:
        response.close()


class _Adapter(requests.adapters.HTTPAdapter):
    """Connections with time limits and with the administrator's certificates."""

    def __init__(self, trusted: ssl.SSLContext | None) -> None:
        self._trusted: dict[str, Any] = {} if trusted is None else {"ssl_context": trusted}
        super().__init__()

    def init_poolmanager(self, *arguments: Any, **more: Any) -> None:
        super().init_poolmanager(*arguments, **{**more, **self._trusted})

    def proxy_manager_for(self, proxy: str, **more: Any) -> Any:
        return super().proxy_manager_for(proxy, **{**more, **self._trusted})

    def cert_verify(self, conn: Any, url: str, verify: Any, cert: Any) -> None:
        """Like the base class, but without loading its own bundle into the context at each connection."""
        super().cert_verify(conn, url, verify, cert)
        if verify is True and self._trusted:
            conn.ca_certs = conn.ca_cert_dir = None

    def send(self, request: requests.PreparedRequest, *arguments: Any, **more: Any) -> requests.Response:
        more["timeout"] = (CONNECT_TIMEOUT, READ_TIMEOUT)
        return super().send(request, *arguments, **more)


def trust(host: str) -> ssl.SSLContext:
    """The certificate authorities of this system, and those configured for one registry. Takes 70 ms."""
    context = ssl.create_default_context()
    system = ssl.get_default_verify_paths()
    if system.cafile is None and system.capath is None:
        context.load_verify_locations(requests.certs.where())  # a system without its own bundle
    for folder in CERTIFICATES:
        for path in sorted(glob.glob(f"{glob.escape(folder)}/{glob.escape(host)}/*.crt")):
            try:
                context.load_verify_locations(path)
            except OSError as error:
                raise ImageError(f"{path}: read the certificate: {reason(error)}") from error
    return context


def denied(access: Access) -> ImageError:
    """The error for a registry that refuses access."""
    host = access.reference.registry
    hint = f"log in: skopeo login {host} (or docker login {host})"
    if access.credentials is None:
        return ImageError(f"{access.label}: {host} requires authentication; no credentials found", hint=hint)
    return ImageError(
        f"{access.label}: {host} rejected the credentials in {access.credentials.origin}: they are wrong or "
        "do not cover this repository",
        hint=hint,
    )


def translate(error: Exception, access: Access) -> ImageError:
    """The ImageError for what a library raised. It never holds the URL, which may contain a signature."""
    who = f"{access.label}: {access.reference.host}"
    inner = _innermost(error)
    if isinstance(inner, ssl.SSLCertVerificationError):
        return ImageError(
            f"{who}: its certificate is not trusted: {inner.verify_message}",
            hint=f"put the certificate of its authority in {CERTIFICATES[0]}/{access.reference.host}/ca.crt",
        )
    if isinstance(inner, ssl.SSLError):
        return Unreachable(
            f"{who}: TLS: {(inner.reason or 'failed').replace('_', ' ').lower()}",
            hint="if the registry does not use TLS and you trust the network, set insecure: true",
        )
    if isinstance(inner, socket.gaierror):
        return ImageError(f"{who}: look up the host: {inner.strerror}", hint="check the spelling of the name")
    if isinstance(error, requests.exceptions.ConnectTimeout):
        return ImageError(f"{who}: connect: no answer within {CONNECT_TIMEOUT:.0f} s")
    if isinstance(error, requests.exceptions.InvalidSchema):
        return ImageError(f"{who}: refused to follow a redirect to a URL without TLS")
    if isinstance(inner, TimeoutError | urllib3.exceptions.TimeoutError | requests.exceptions.Timeout):
        return Unreachable(f"{who}: no answer within {READ_TIMEOUT:.0f} s")
    if isinstance(inner, OSError) and inner.strerror:
        return Unreachable(f"{who}: {inner.strerror}")
    if isinstance(
        error,
        requests.exceptions.ConnectionError
        | requests.exceptions.ChunkedEncodingError
        | urllib3.exceptions.ProtocolError,
    ):
        return Unreachable(f"{who}: the connection was closed before the answer was complete")
    return ImageError(f"{who}: invalid answer: {type(error).__name__}")


def _innermost(error: BaseException) -> BaseException:
    """The error that the others are wrapped around."""
    seen: set[int] = set()
    while id(error) not in seen:
        seen.add(id(error))
        inside = [getattr(error, "reason", None), *error.args, error.__cause__, error.__context__]
        error = next((each for each in inside if isinstance(each, BaseException)), error)
    return error
