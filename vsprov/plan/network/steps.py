"""The steps that change networks."""

from __future__ import annotations

from vsprov.plan.network import naming
from vsprov.plan.network.state import HostLink, Interface
from vsprov.plan.steps import Step


class MakeBridge(Step, frozen=True):
    """Create the bridge of a network with its mark, addresses and MTU, and bring it up."""

    network: str
    link: HostLink

    def describe(self) -> str:
        return f"create the bridge of Network/{self.network}"

    def undo(self) -> Step | None:
        return RemoveLink(self.link.name, self.link.alias)


class RemoveLink(Step, frozen=True):
    """Remove a link of the host, if it still exists and has this alias."""

    link: str
    alias: str

    def describe(self) -> str:
        return f"remove a link of {naming.address(self.alias)}"


class ChangeLink(Step, frozen=True):
    """Make a bridge of ours what `link` says; `before` is what it is. Only what differs is changed."""

    link: HostLink
    before: HostLink

    def describe(self) -> str:
        return f"change the bridge of {naming.address(self.link.alias)}"

    def undo(self) -> Step | None:
        return ChangeLink(self.before, self.link)


class MakePool(Step, frozen=True):
    """Create the intermediate device whose rate (`ingress`) the servers of a pool share."""

    link: HostLink

    def describe(self) -> str:
        return f"create the queue of {naming.address(self.link.alias)}"

    def undo(self) -> Step | None:
        return RemoveLink(self.link.name, self.link.alias)


class ChangePool(Step, frozen=True):
    """Make the intermediate device of a pool what `link` says; without its root queue, that is made anew."""

    link: HostLink
    before: HostLink

    def describe(self) -> str:
        return f"change the rate of {naming.address(self.link.alias)}"

    def undo(self) -> Step | None:
        return ChangePool(self.before, self.link) if self.before.ingress else None


class RemoveShares(Step, frozen=True):
    """Remove the classes of links that no longer share the rate of a pool."""

    link: str
    shares: tuple[int, ...]

    def describe(self) -> str:
        return f"remove {len(self.shares)} unused shares of a rate"


class MakeInterface(Step, frozen=True):
    """Create an interface of a server that waits at its gate or runs, with addresses, routes and rates.

    What is left of an earlier interface of this name and mark is removed first.
    """

    server: str
    interface: Interface

    def describe(self) -> str:
        return f"create interface {self.interface.name} of {self.server}"

    def undo(self) -> Step | None:
        return RemoveInterface(self.server, self.interface)


class RemoveInterface(Step, frozen=True):
    """Remove an interface of a running server."""

    server: str
    interface: Interface

    def describe(self) -> str:
        return f"remove interface {self.interface.name} of {self.server}"

    def undo(self) -> Step | None:
        return MakeInterface(self.server, self.interface)


class ChangeInterface(Step, frozen=True):
    """Make an interface of a running server what `interface` says; `before` is what it is."""

    server: str
    interface: Interface
    before: Interface

    def describe(self) -> str:
        return f"change interface {self.interface.name} of {self.server}"

    def undo(self) -> Step | None:
        return ChangeInterface(self.server, self.before, self.interface)


class RemoveProxy(Step, frozen=True):
    """No longer answer for an address of a server that has ended, on a link of the host."""

    address: str
    link: str

    def describe(self) -> str:
        return f"no longer answer for {self.address} on {self.link}"


class SetSysctl(Step, frozen=True):
    """Write a sysctl of the host; `before` is its value."""

    path: str
    value: str
    before: str

    def describe(self) -> str:
        return f"set {self.path.replace('/', '.')} to {self.value}"

    def undo(self) -> Step | None:
        return SetSysctl(self.path, self.before, self.value)


class ChangeFirewall(Step, frozen=True):
    """Run commands of libnftables-json(5), a JSON list, in one transaction; `before` undoes them."""

    commands: str
    before: str
    why: str

    def describe(self) -> str:
        return f"change the firewall: {self.why}"

    def undo(self) -> Step | None:
        return ChangeFirewall(self.before, self.commands, f"undo: {self.why}")


class MountNames(Step, frozen=True):
    """Give a running server that had no interfaces its /etc/resolv.conf and /etc/hostname, still empty.

    They stay mounted when the change is taken back: without an interface, a server resolves no names by them.
    """

    server: str
    read_only: bool

    def describe(self) -> str:
        return f"mount /etc/resolv.conf and /etc/hostname in {self.server}"


class WriteNames(Step, frozen=True):
    """Replace the managed part of a file of each server: (server, "hosts" or "resolv.conf", text, before)."""

    files: tuple[tuple[str, str, str, str], ...]

    def describe(self) -> str:
        servers = list(dict.fromkeys(server for server, *_ in self.files))
        return f"update the names in {servers[0] if len(servers) == 1 else f'{len(servers)} servers'}"

    def undo(self) -> Step | None:
        return WriteNames(tuple((server, name, before, text) for server, name, text, before in self.files))
