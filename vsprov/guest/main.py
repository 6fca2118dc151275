"""Entry point of the guest programs: `python -I -S main.py spawner|enter FD [python]`; FD is a socket, see
`wire`.

`python`: make the system calls of children in Python, not by machine code; see `syscall_list`.

The modules are loaded as the package `guest`, found beside this file, so that nothing else of vsprov is
imported.
"""

import gc
import os
import sys

HOME = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
PROGRAMS = {"spawner": "guest.spawner.loop", "enter": "guest.enter"}


def main() -> None:
    """Serve the socket until it is closed (`spawner`), or run one command in a running server (`enter`)."""
    gc.disable()  # imports are faster, and a collection in a child would copy every page of the heap
    sys.path.insert(0, HOME)
    program = __import__(PROGRAMS[sys.argv[1]], fromlist=["main"])
    program.main(int(sys.argv[2]), "python" in sys.argv[3:])
    os._exit(0)  # without tearing down the interpreter, which would take a sixth of the whole run


if __name__ == "__main__":
    main()
