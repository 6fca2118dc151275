"""A running guest for commands that join it."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from typing import Any

from tests.instance import CHECKOUT
from tests.kernel.guests import SECONDS, Guest, Workshop

JOIN = """
import ast, sys
from vsprov.engine.guests.commands import foreground
from vsprov.errors import VsprovError
request = ast.literal_eval(sys.argv[1])
server = request.pop("server", "")
try:
    code = foreground.run({**request, "tty": sys.argv[2] == "tty"}, server)
except VsprovError as error:
    print(f"refused {error.exit_code}: {error}", file=sys.stderr)
    code = error.exit_code
sys.exit(code)
"""


@dataclass(frozen=True, slots=True)
class House:
    """A workshop with one running guest."""

    workshop: Workshop
    guest: Guest
    spawned: dict[str, Any]

    def request(self, *argv: str, **changes: Any) -> dict[str, Any]:
        """A request to run these words in the guest, as confined as it is."""
        number = self.workshop.made
        request = {
            key: self.spawned[key] for key in ("env", "cwd", "user", "umask", "no_new_privs", "capabilities")
        }
        return {
            **request,
            "cmd": "enter",
            "own_root": True,
            "argv": list(argv),
            "home": False,
            "rlimits": [],
            "pid": self.guest.pid,
            "start": self.guest.start,
            "cgroup": {
                "payload": str(self.workshop.group(number) / "exec"),
                "attach": self.spawned["cgroup"]["attach"],
            },
            **changes,
        }

    def run(self, *argv: str, input: str | None = None, **changes: Any) -> subprocess.CompletedProcess[str]:
        """Run a command in the guest to its end, through pipes."""
        return subprocess.run(
            join(self.request(*argv, **changes), "pipes"),
            cwd=CHECKOUT,
            input=input,
            stdin=subprocess.DEVNULL if input is None else None,
            capture_output=True,
            text=True,
            timeout=SECONDS,
        )

    def said(self, script: str, **changes: Any) -> list[str]:
        """The lines a script in the guest writes; it must end well."""
        done = self.run("sh", "-euc", script, **changes)
        assert (done.returncode, done.stderr) == (0, "")
        return done.stdout.splitlines()


def join(request: dict[str, Any], how: str) -> list[str]:
    return [sys.executable, "-c", JOIN, repr(request), how]
