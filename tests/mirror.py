"""What a program finds when it starts: run forked and as a new process by tests/unit/test_preloaded.py."""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
import threading
from pathlib import Path

LIMITS = [getattr(resource, name) for name in dir(resource) if name.startswith("RLIMIT_")]
STATUS = ("Umask", "Groups", "CapEff", "CapBnd", "NoNewPrivs", "Seccomp", "Cpus_allowed", "SigBlk", "SigIgn")


def tell() -> None:
    """Print it as JSON, with what is read on standard input, and end with exit code 3."""
    umask = os.umask(0)
    os.umask(umask)
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    streams = (sys.stdin, sys.stdout, sys.stderr)
    found = {
        "arguments": sys.argv[1:],
        "environment": dict(os.environ),
        "directory": os.getcwd(),
        "open files": sorted(int(each) for each in os.listdir("/proc/self/fd"))[:-1],  # the last lists them
        "handlers": {number.name: str(signal.getsignal(number)) for number in signal.Signals},
        "limits": [resource.getrlimit(limit) for limit in LIMITS],
        "status": [status[name] for name in STATUS],
        "ids": [os.getuid(), os.getgid(), os.getpgid(0), os.getsid(0), os.nice(0)],
        "cgroup": Path("/proc/self/cgroup").read_text(),
        "namespaces": [os.readlink(f"/proc/self/ns/{name}") for name in sorted(os.listdir("/proc/self/ns"))],
        "streams": [[each.encoding, each.errors, each.line_buffering, each.isatty()] for each in streams],
        "threads": threading.active_count(),
        "unpaired": os.fsencode(sys.stdin.read()).hex(),
        "flags": str(sys.flags),
        "path": sys.path[1:],
    }
    print(json.dumps(found))
    print("and complaints", file=sys.stderr)
    sys.exit(3)


def die() -> None:
    print("last words", flush=True)
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    tell()
