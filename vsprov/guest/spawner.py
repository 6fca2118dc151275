"""Entry of the stand-alone program: `python -I -S spawner.py loop FD [python]` or `… enter FD`; FD: a socket.

Its modules load as the package `guest`, found beside this file, so that nothing of vsprov is imported.
"""

import os
import sys

HOME = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


def main() -> None:
    """Serve the socket until it closes (`loop`), or join one running server (`enter`)."""
    sys.path.insert(0, HOME)
    program = __import__(f"guest.{sys.argv[1]}", fromlist=["main"])
    program.main(int(sys.argv[2]))


if __name__ == "__main__":
    main()
