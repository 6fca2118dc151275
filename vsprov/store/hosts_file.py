"""The file that a server sees as /etc/hosts, so that `localhost`, its own name and its peers resolve.

All servers have one. Its managed part names the addresses of the server and its peers.
"""

from __future__ import annotations

import re

from vsprov.store import managed_file

NAME = "hosts"
TARGET = "/etc/hosts"
_LOCAL = "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n"
_OWN = "127.0.1.1"  # hosts(5) of Debian: the name of a host without a permanent address


def update(path: str, hostname: str, owner: int | None = None, part: str | None = None) -> None:
    """Make the file name `hostname`; with an owner it is created if absent, and given to that id.

    `part` is the new managed part, None to leave it as it is.
    """

    def edit(text: str) -> str:
        return with_own_name(text if part is None else managed_file.with_managed(text, part), hostname)

    managed_file.rewrite(path, edit, owner)


def with_own_name(text: str, hostname: str) -> str:
    """The content with one line of the server's own name, replaced or added; for "" a whole new file.

    A managed part has the own name, so that there is no such line beside it.

    >>> with_own_name("127.0.1.1 old\\n10.0.0.1 db\\n", "web.example.org")
    '127.0.1.1\\tweb.example.org web\\n10.0.0.1 db\\n'
    """
    part, others = managed_file.managed(text), managed_file.with_managed(text, "")
    lines = (others if others.strip() else _LOCAL).removesuffix("\n").split("\n")
    found = [number for number, line in enumerate(lines) if re.match(rf"{re.escape(_OWN)}\s", line)]
    if not part:
        short = hostname.partition(".")[0]
        own = f"{_OWN}\t{hostname}" + (f" {short}" if short != hostname else "")
        if found:
            lines[found.pop(0)] = own
        else:
            lines.append(own)
    kept = [line for number, line in enumerate(lines) if number not in set(found)]
    return managed_file.with_managed("\n".join(kept) + "\n", part)
