"""Entry point of the prober: `python -I -S -B main.py FD`; FD is its socket to the keeper.

The modules are loaded as the packages `keeper` and `guest`, found above this file, so that nothing else of
vsprov is imported.
"""

import gc
import os
import sys

HOME = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))


def main() -> None:
    """Make probes until the keeper closes the socket."""
    gc.disable()  # nothing here makes reference cycles, and a collection in a fork would copy every page
    sys.path.insert(0, HOME)
    prober = __import__("keeper.probes.prober", fromlist=["Prober"])
    prober.Prober(int(sys.argv[1])).serve()
    os._exit(0)


if __name__ == "__main__":
    main()
