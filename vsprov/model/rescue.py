"""The spec of a server that is started for its repair: a shell that waits, instead of its own init."""

from __future__ import annotations

from msgspec.structs import replace

from vsprov.model.kinds.sections.life import Restart
from vsprov.model.kinds.server import Server

# As pid 1 it has no default action for signals: it ends by every stop signal that images use, among them
# RTMIN+3 of systemd and PWR of sysvinit. Without `sleep` it ends, instead of using a CPU.
_WAIT = "trap 'exit 0' 1 2 3 10 12 15 30 37; while :; do sleep 86400 & wait $! || exit 1; done"


def rescued(spec: Server) -> Server:
    """The spec with a waiting root shell as init, and without restarts and probes.

    All else stays, also the style of the init, which privileges and mounts depend on.
    """
    init = replace(
        spec.init,
        command=("/bin/sh", "-c", _WAIT),
        args=(),
        user="0:0",
        working_dir="/",
        reaper=False,
        oneshot=False,
    )
    return replace(spec, init=init, restart=Restart(), readiness=None, health=None)
