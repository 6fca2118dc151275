"""Entry point of the stand-alone program. Its modules are imported as the package `unpack.files`."""

import os
import sys

HOME = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))


def main() -> None:
    sys.path.append(HOME)
    program = __import__("unpack.files.worker", fromlist=["main"])
    sys.path.remove(HOME)
    program.main()


if __name__ == "__main__":
    main()
