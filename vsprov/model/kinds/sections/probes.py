"""How to find out whether a server does its work: `readiness` and `health`."""

from __future__ import annotations

from vsprov.model.fields import Section, one, strings, value
from vsprov.model.values import patterns
from vsprov.model.values.value_kinds import DURATION

_PORT = {"minimum": 1, "maximum": 65535}


class Endpoint(Section):
    """A port that a probe connects to."""

    port: int = value(doc="Port on the server's loopback interface, 127.0.0.1 or ::1.", schema=_PORT)


class HttpEndpoint(Endpoint):
    """A path that a probe requests."""

    path: str = value(
        "/",
        doc="Path to request, with the query if there is one.",
        schema={
            "maxLength": 1024,
            "pattern": "^/[!-~]*$",
            "patternErrorMessage": "is not a path: / and printable ASCII characters, without spaces",
        },
    )


class Health(Section):
    """A probe; exactly one of exec, tcp, http and file is set."""

    exec: tuple[str, ...] = strings(
        doc="Command to run in the server, confined as those of vsprov exec; it succeeds with exit code 0.",
        schema={"items": patterns.TEXT, "minItems": 1},
        choice=True,
    )
    tcp: Endpoint | None = one(
        Endpoint, None, doc="Succeeds if a TCP connection to the port can be made.", choice=True
    )
    http: HttpEndpoint | None = one(
        HttpEndpoint, None, doc="Succeeds if GET is answered with a status from 200 to 399.", choice=True
    )
    file: str | None = value(
        None, doc="Succeeds while this file exists in the server.", schema=patterns.ABSOLUTE, choice=True
    )
    interval: int = value(
        5_000_000,
        doc="Time between probes. Until the first success, they follow each other faster.",
        kind=DURATION,
    )
    timeout: int = value(
        1_000_000, doc="A probe that has not succeeded after this time has failed.", kind=DURATION
    )
    retries: int = value(
        3,
        doc="Failures in a row after which the server counts as not ready, or as unhealthy.",
        schema={"minimum": 1, "maximum": 1000},
    )
    start_period: int = value(
        0, doc="Time after the start in which failures do not count before the first success.", kind=DURATION
    )


class Readiness(Health):
    """A probe, or with `notify` the server's own report."""

    notify: bool | None = value(
        None,
        doc="true: the server reports by itself that it is ready: READY=1 on the socket that its environment "
        "names NOTIFY_SOCKET, see sd_notify(3).",
        schema={"const": True},
        choice=True,
        cost="restart",  # its environment names the socket
    )
