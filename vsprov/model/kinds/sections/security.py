"""Privileges of a server's processes: `security`."""

from __future__ import annotations

from typing import Literal

from vsprov.model.fields import Section, one, value
from vsprov.model.values import styles
from vsprov.model.values.names import CAPABILITIES, DEFAULT_CAPABILITIES, parse_capabilities

_CAPABILITIES = {"items": {"type": "string", "examples": list(CAPABILITIES)}}


class CapabilityChange(Section):
    """Capabilities added to and removed from the default ones."""

    add: tuple[str, ...] = value(
        (),
        doc="Capabilities to keep in addition to the default set, without CAP_.",
        schema=_CAPABILITIES,
        parse=parse_capabilities,
        dump=list,
    )
    drop: tuple[str, ...] = value(
        (),
        doc="Capabilities to drop from the default set, without CAP_.",
        schema=_CAPABILITIES,
        parse=parse_capabilities,
        dump=list,
    )


class Security(Section):
    """What the processes of a server may do."""

    user_namespace: Literal["auto"] = value(
        "auto",
        doc="auto: a private range of 65536 user and group IDs; the server's root has no rights on the host.",
    )
    capabilities: CapabilityChange = one(
        CapabilityChange,
        CapabilityChange(),
        doc=f"Changes to the default set: {', '.join(sorted(DEFAULT_CAPABILITIES))}. Servers whose "
        "init.style is not exec have all that are effective in a user namespace.",
    )
    no_new_privileges: bool = value(
        True,
        doc="Programs cannot gain privileges through setuid or file capabilities (PR_SET_NO_NEW_PRIVS). "
        "Defaults to false if init.style is not exec: sudo and logins depend on it.",
    )
    read_only_root: bool = value(False, doc="Mount the root file system read-only. Does not affect mounts.")

    def kept(self, style: str) -> tuple[str, ...]:
        """The capability bounding set, sorted: the default set of a style, plus `add`, minus `drop`."""
        given = self.capabilities
        return tuple(sorted((styles.capabilities(style) | set(given.add)) - set(given.drop)))
