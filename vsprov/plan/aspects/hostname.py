"""The hostname of a running server: the nodename of its UTS namespace (uts_namespaces(7))."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from vsprov.plan.aspects.aspect import Aspect, Difference, Running, register
from vsprov.plan.plan import change
from vsprov.plan.step import Step


class SetHostname(Step, frozen=True):
    """Set the hostname of a running server; `before` is the current one."""

    server: str
    hostname: str
    before: str

    def describe(self) -> str:
        return f"set the hostname of {self.server} to {self.hostname}"

    def undo(self) -> Step | None:
        return SetHostname(self.server, self.before, self.hostname)


def compare(it: Running) -> Iterable[Difference]:
    """The hostname, if the running server has another one than its spec."""
    if it.seen != it.spec.hostname:
        path = change("spec.hostname", it.seen, it.spec.hostname, "live")
        yield Difference(path, SetHostname(it.name, it.spec.hostname, it.seen))


def show(spec: Mapping[str, Any], seen: Any, ignore: frozenset[str]) -> Mapping[str, Any]:
    """The spec with the current hostname."""
    return {**spec, "hostname": seen}


register(Aspect("hostname", ("hostname",), compare, show))
