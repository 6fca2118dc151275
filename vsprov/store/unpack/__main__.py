"""Entry point of the stand-alone programs: `python unpack/__main__.py WORKER JOB`.

WORKER is the module of one of them, such as `files.worker`; they are imported as the package `unpack`.
"""

import os
import sys

HOME = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


def main() -> None:
    _, worker, job = sys.argv
    sys.path.append(HOME)
    program = __import__(f"unpack.{worker}", fromlist=["main"])
    sys.path.remove(HOME)
    program.main(job)


if __name__ == "__main__":
    main()
