"""Entry point of the stand-alone programs: `python unpack/__main__.py WORKER JOB`.

WORKER is the module of one of them in `vsprov.store.unpack`, such as `files.worker`.
"""

import os
import sys

HOME = os.path.abspath(os.path.join(os.path.dirname(__file__), "..", "..", ".."))


def main() -> None:
    _, worker, job = sys.argv
    # Of the directory that vsprov is in, which may be that of all installed packages, import nothing else.
    sys.path.insert(0, HOME)
    __import__("vsprov")
    sys.path.remove(HOME)
    program = __import__(f"vsprov.store.unpack.{worker}", fromlist=["main"])
    program.main(job)


if __name__ == "__main__":
    main()
