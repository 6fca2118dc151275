"""How to speak to one registry, whom to trust for it, and how to say what went wrong."""

from __future__ import annotations

import glob
import socket
import ssl
from dataclasses import dataclass
from typing import Any

import requests
import requests.adapters
import requests.certs
import urllib3.exceptions

from vsprov.errors import ImageError, reason
from vsprov.model.image_reference import Reference
from vsprov.store.registry.credentials import Credentials
from vsprov.store.registry.download import Interrupted

# Seconds. The kernel asks for a connection at 0, 1, 3 and 7 s; tcp(7), tcp_syn_retries.
CONNECT_TIMEOUT, READ_TIMEOUT = 8.0, 20.0
# containers-certs.d(5); docker looks for the same below its own folder.
CERTIFICATES = ("/etc/containers/certs.d", "/etc/docker/certs.d")


@dataclass(frozen=True, slots=True)
class Access:
    """How to speak to the registry of one image, as was found out once."""

    reference: Reference
    scheme: str
    trusted: ssl.SSLContext | None  # None: whoever answers
    login: str  # "basic" or "token"
    credentials: Credentials | None

    @property
    def verify(self) -> bool:
        return self.trusted is not None

    @property
    def shown(self) -> str:
        return str(self.reference)


class Unreachable(Interrupted):
    """There was no answer at all, or no whole one."""


class Untrusted(ImageError):
    """Who answers cannot prove to be the registry."""


class Adapter(requests.adapters.HTTPAdapter):
    """Waits a limited time, and trusts whom the administrator of this machine trusts."""

    def __init__(self, trusted: ssl.SSLContext | None) -> None:
        self._trusted: dict[str, Any] = {} if trusted is None else {"ssl_context": trusted}
        super().__init__()

    def init_poolmanager(self, *arguments: Any, **more: Any) -> None:
        super().init_poolmanager(*arguments, **{**more, **self._trusted})

    def proxy_manager_for(self, proxy: str, **more: Any) -> Any:
        return super().proxy_manager_for(proxy, **{**more, **self._trusted})

    def cert_verify(self, conn: Any, url: str, verify: Any, cert: Any) -> None:
        """As the library has it, but that it would load its own list into the context at each connection."""
        super().cert_verify(conn, url, verify, cert)
        if verify is True and self._trusted:
            conn.ca_certs = conn.ca_cert_dir = None

    def send(self, request: requests.PreparedRequest, *arguments: Any, **more: Any) -> requests.Response:
        more["timeout"] = (CONNECT_TIMEOUT, READ_TIMEOUT)
        return super().send(request, *arguments, **more)


def trust(host: str) -> ssl.SSLContext:
    """The authorities of this system, and those that were put there for one registry. Takes 70 ms."""
    context = ssl.create_default_context()
    system = ssl.get_default_verify_paths()
    if system.cafile is None and system.capath is None:
        context.load_verify_locations(requests.certs.where())  # a system without a list of its own
    for folder in CERTIFICATES:
        for path in sorted(glob.glob(f"{glob.escape(folder)}/{glob.escape(host)}/*.crt")):
            try:
                context.load_verify_locations(path)
            except OSError as error:
                raise ImageError(f"{path}: read the certificate: {reason(error)}") from error
    return context


def denied(access: Access) -> ImageError:
    """The error for a registry that does not let us in."""
    host = access.reference.registry
    hint = f"log in: skopeo login {host} (or docker login {host})"
    if access.credentials is None:
        return ImageError(
            f"{access.shown}: {host} lets nobody in without credentials for it: there are none", hint=hint
        )
    return ImageError(
        f"{access.shown}: {host} refuses the credentials in {access.credentials.origin}: they are wrong, or "
        "not for this repository",
        hint=hint,
    )


def refusal(error: Exception, access: Access) -> ImageError:
    """What a library raised, in words; never the address asked, which may hold a signature."""
    who = f"{access.shown}: {access.reference.host}"
    inner = _innermost(error)
    if isinstance(inner, ssl.SSLCertVerificationError):
        return Untrusted(
            f"{who}: its certificate is not trusted: {inner.verify_message}",
            hint=f"put that of its authority into {CERTIFICATES[0]}/{access.reference.host}/ca.crt",
        )
    if isinstance(inner, ssl.SSLError):
        return Unreachable(
            f"{who}: TLS: {(inner.reason or 'failed').replace('_', ' ').lower()}",
            hint="if it does not speak TLS, and may be trusted for all that, set insecure: true",
        )
    if isinstance(inner, socket.gaierror):
        return ImageError(f"{who}: look the host up: {inner.strerror}", hint="see whether the name is right")
    if isinstance(error, requests.exceptions.ConnectTimeout):
        return ImageError(f"{who}: connect: no answer within {CONNECT_TIMEOUT:.0f} s")
    if isinstance(error, requests.exceptions.InvalidSchema):
        return ImageError(f"{who}: it leads to an address without TLS: that is refused")
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
        return Unreachable(f"{who}: the connection ended before the answer did")
    return ImageError(f"{who}: an answer that cannot be understood: {type(error).__name__}")


def _innermost(error: BaseException) -> BaseException:
    """The error that the others are wrapped around."""
    seen: set[int] = set()
    while id(error) not in seen:
        seen.add(id(error))
        inside = [getattr(error, "reason", None), *error.args, error.__cause__, error.__context__]
        error = next((each for each in inside if isinstance(each, BaseException)), error)
    return error
