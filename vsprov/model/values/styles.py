"""The styles of `init`: what runs as PID 1 of a server, and how it is asked to stop.

`exec` runs a command. The others boot the init of the image, which starts and stops the rest, as on a
machine: a server with one of them is called a system server.
"""

from __future__ import annotations

from collections.abc import Mapping

from vsprov.model.values.names import CAPABILITIES, DEFAULT_CAPABILITIES, HOST_CAPABILITIES

EXEC = "exec"
# What runs if `command` is not set; a name without "/" is looked up in PATH.
COMMANDS: Mapping[str, tuple[str, ...]] = {
    "systemd": ("/sbin/init",),
    "sysv": ("/sbin/init",),
    "openrc": ("/sbin/init",),
    "runit": ("/sbin/init",),
    "s6": ("/init",),
}
# systemd(1), "Signals": RTMIN+3 is halt.target. INT is what the kernel sends to an init for Ctrl-Alt-Del;
# sysvinit, busybox, OpenRC and runit then do what the image configures, by default a reboot, which ends the
# server as well. s6-svscan(8) stops all services on TERM.
STOP_SIGNALS: Mapping[str, str] = {
    "systemd": "RTMIN+3",
    "sysv": "INT",
    "openrc": "INT",
    "runit": "INT",
    "s6": "TERM",
}
# The variable `container` of PID 1. OpenRC leaves out what makes no sense in a container (openrc(8), keyword)
# if it knows the name.
CONTAINER = {"openrc": "lxc"}
# What the manifest of a system server may override; as JSON.
SYSTEM_DEFAULTS: Mapping[str, Mapping[str, object]] = {
    "init": {"stopTimeout": "90s"},
    "security": {"noNewPrivileges": False},
}
# All that a user namespace can have: services confine themselves, and their tools need to mount and to
# configure the network. The kernel grants none of them outside of the server.
SYSTEM_CAPABILITIES = frozenset(CAPABILITIES) - HOST_CAPABILITIES


def is_system(style: str) -> bool:
    """Whether the image's own init runs as PID 1."""
    return style in COMMANDS


def capabilities(style: str) -> frozenset[str]:
    """The default set of capabilities."""
    return SYSTEM_CAPABILITIES if is_system(style) else DEFAULT_CAPABILITIES
