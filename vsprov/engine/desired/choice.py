"""Which servers a command is for; what finds them is loaded later, see `engine.run.spawn.ahead`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from msgspec import Struct

from vsprov.model.suggest import not_found

if TYPE_CHECKING:
    from vsprov.plan.observed import Observed, ObservedServer


class Choice(Struct, frozen=True):
    """A selection of servers: by name, by labels, or all."""

    names: tuple[str, ...] = ()
    selected: Callable[[Mapping[str, str]], bool] | None = None
    everything: bool = False

    def of(self, observed: Observed, instance: str) -> list[ObservedServer]:
        """The selected servers of the instance, without duplicates. FailedError for an unknown name."""
        from vsprov.engine.look.observe import refuse_foreign
        from vsprov.plan.observed import is_of

        for name in self.names:
            if name not in observed.servers:
                raise not_found("Server", name, observed.servers)
            refuse_foreign(observed.servers[name], instance)
        found = [observed.servers[name] for name in dict.fromkeys(self.names)]
        for seen in observed.servers.values():
            chosen = self.everything or (
                self.selected and seen.applied and self.selected(seen.applied["labels"])
            )
            if chosen and all(is_of(owner, instance) for owner in seen.owners()):
                found.append(seen)
        return found
