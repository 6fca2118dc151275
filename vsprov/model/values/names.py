"""Names of signals, users and capabilities, and their canonical forms."""

from __future__ import annotations

import re
from typing import Any

from vsprov.model.values.units import UnitError

# As in kill(1), without SIG; real-time signals are RTMIN+n.
SIGNALS = {
    name: number
    for number, name in enumerate(
        "HUP INT QUIT ILL TRAP ABRT BUS FPE KILL USR1 SEGV USR2 PIPE ALRM TERM STKFLT CHLD CONT STOP TSTP "
        "TTIN TTOU URG XCPU XFSZ VTALRM PROF WINCH IO PWR SYS".split(),
        1,
    )
}

LAST_SIGNAL = 64  # SIGRTMAX


def parse_signal(raw: Any) -> str:
    """`TERM` from TERM, SIGTERM or 15; `RTMIN+3` from SIGRTMIN+3 or 37."""
    text = str(raw).upper().removeprefix("SIG")
    if re.fullmatch(r"[0-9]{1,2}", text, re.ASCII):
        number = int(text)
        by_number = {n: name for name, n in SIGNALS.items()}
        text = by_number.get(number, f"RTMIN+{number - 34}" if 34 <= number <= LAST_SIGNAL else "")
    match = re.fullmatch(r"RTMIN(?:\+([0-9]{1,2}))?", text, re.ASCII)
    if match and int(match[1] or 0) <= LAST_SIGNAL - 34:
        return f"RTMIN+{int(match[1] or 0)}"
    if text not in SIGNALS:
        raise UnitError(f"{raw!r} is not a signal", "write TERM, INT, RTMIN+3, …")
    return text


def signal_name(number: int) -> str:
    """TERM for 15, RTMIN+3 for 37; the number itself if it has no name."""
    known = next((name for name, value in SIGNALS.items() if value == number), None)
    return known or (f"RTMIN+{number - 34}" if 34 <= number <= LAST_SIGNAL else str(number))


def signal_number(name: str) -> int:
    """15 for "TERM", 37 for "RTMIN+3" (signal(7): SIGRTMIN is 34 with glibc)."""
    return SIGNALS[name] if name in SIGNALS else 34 + int(name.partition("+")[2] or 0)


def parse_user(raw: Any) -> str:
    """`UID[:GID]` or `name[:group]`; numbers are plain decimals (CVE-2026-30892: `-u 1` taken for root)."""
    text = str(raw)
    for part in text.split(":", 1):
        number = re.fullmatch(r"0|[1-9][0-9]{0,4}", part, re.ASCII)
        if number and int(part) > 65535:
            raise UnitError(f"{raw!r}: {part} is above 65535, the highest ID of a server")
        if not number and not re.fullmatch(r"[a-z_][a-z0-9_-]{0,30}\$?", part, re.ASCII):
            raise UnitError(
                f"{raw!r} is not a user", 'write "0:0", "1000" or a name from the image\'s /etc/passwd'
            )
    return text


# include/uapi/linux/capability.h, in numerical order.
CAPABILITIES = (
    "CHOWN DAC_OVERRIDE DAC_READ_SEARCH FOWNER FSETID KILL SETGID SETUID SETPCAP LINUX_IMMUTABLE "
    "NET_BIND_SERVICE NET_BROADCAST NET_ADMIN NET_RAW IPC_LOCK IPC_OWNER SYS_MODULE SYS_RAWIO SYS_CHROOT "
    "SYS_PTRACE SYS_PACCT SYS_ADMIN SYS_BOOT SYS_NICE SYS_RESOURCE SYS_TIME SYS_TTY_CONFIG MKNOD LEASE "
    "AUDIT_WRITE AUDIT_CONTROL SETFCAP MAC_OVERRIDE MAC_ADMIN SYSLOG WAKE_ALARM BLOCK_SUSPEND AUDIT_READ "
    "PERFMON BPF CHECKPOINT_RESTORE "
).split()
# The kernel checks these against the initial user namespace, which no server is in: capable() instead of
# ns_capable(); user_namespaces(7), "Effect of capabilities within a user namespace".
HOST_CAPABILITIES = frozenset(
    "AUDIT_CONTROL AUDIT_READ AUDIT_WRITE BLOCK_SUSPEND BPF LEASE LINUX_IMMUTABLE MAC_ADMIN MAC_OVERRIDE "
    "MKNOD PERFMON SYSLOG SYS_MODULE SYS_PACCT SYS_RAWIO SYS_TIME SYS_TTY_CONFIG WAKE_ALARM".split()
)
# The default set of podman: enough for packages, daemons and setuid programs, without power over the host.
DEFAULT_CAPABILITIES = frozenset(
    "CHOWN DAC_OVERRIDE FOWNER FSETID KILL NET_BIND_SERVICE SETFCAP SETGID SETPCAP SETUID SYS_CHROOT".split()
)


def parse_capability(raw: Any) -> str:
    """`NET_ADMIN` from cap_net_admin, CAP_NET_ADMIN or NET_ADMIN."""
    name = str(raw).upper().removeprefix("CAP_")
    if name not in CAPABILITIES:
        raise UnitError(f"{raw!r} is not a capability", "use names from capabilities(7), without CAP_")
    return name


def parse_capabilities(raw: Any) -> tuple[str, ...]:
    """The capabilities in canonical form, sorted, without duplicates."""
    return tuple(sorted({parse_capability(item) for item in raw}))
