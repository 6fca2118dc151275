"""Entry point of the process that a service manager runs: `python -I -S -B watch.py INSTANCE ROOT SOCKET`.

It is a client of the keeper, so that this stays, and runs `vsprov keeper run` again when it has died. That
takes over all servers, and becomes this program.
"""

import os
import select
import sys
import time

SECONDS = 1.0  # between a death and the next start


def main() -> None:
    """Wait for the death of the keeper, and start it again."""
    instance, root, socket = sys.argv[1:4]
    waits = select.poll()
    waits.register(int(socket), select.POLLRDHUP)
    waits.poll()
    os.close(int(socket))
    time.sleep(SECONDS)
    words = ["-I", "-X", "utf8", "-m", "vsprov", "--instance", instance, "--root", root, "keeper", "run"]
    os.execv(sys.executable, [sys.executable, *words])


if __name__ == "__main__":
    main()
