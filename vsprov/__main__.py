"""`python -m vsprov` is the same program as `vsprov`."""

from vsprov.cli import main

if __name__ == "__main__":
    main()
