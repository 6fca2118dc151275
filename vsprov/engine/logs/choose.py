"""The servers whose logs are asked for."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from vsprov.model.suggest import not_found
from vsprov.store.disk import folders
from vsprov.store.instance import Instance


def by_name(instance: Instance, names: tuple[str, ...]) -> list[str]:
    """These servers, without duplicates. FailedError for one that does not exist."""
    known = folders.names(instance.servers)
    for name in names:
        if name not in known:
            raise not_found("Server", name, known)
    return list(dict.fromkeys(names))


def by_labels(instance: Instance, selected: Callable[[Mapping[str, str]], bool]) -> list[str]:
    """The servers whose labels, as they were last applied, are selected."""
    from vsprov.store import servers

    found = servers.observe(instance).items()
    return [name for name, seen in found if seen.applied and selected(seen.applied.get("labels", {}))]


def every(instance: Instance) -> list[str]:
    """All servers that have a directory."""
    return folders.names(instance.servers)
