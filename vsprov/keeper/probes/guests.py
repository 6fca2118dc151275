"""What the prober uses of the guest programs, which lie beside the keeper: joining servers."""

from __future__ import annotations

TYPE_CHECKING = False  # typing would add a megabyte to the process
if TYPE_CHECKING:
    from typing import Any


def _guest(name: str) -> Any:
    """A module of the package `guest`: a sibling of the package `keeper`, whatever is above both."""
    above = __name__.rpartition("keeper.probes.guests")[0]
    return __import__(f"{above}guest.{name}", fromlist=[name])


enter, sys_calls, wire = _guest("enter"), _guest("sys_calls"), _guest("wire")
