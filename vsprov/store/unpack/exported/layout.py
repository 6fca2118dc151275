"""What an exported server consists of: a tar archive, compressed with zstd.

    vsprov-export.json          the header: what follows, of which server and image
    manifest.yaml               the documents of the server, and of what it refers to
    upper/                      what the server has written
    volumes/NAME/               the files of a volume
    snapshots/NAME/upper/       what it had written in a snapshot
    snapshots/NAME/volumes/NAME/  the files of a volume in a snapshot
    SHA256SUMS                  the SHA-256 of each of these parts: all bytes of the tar from its first header
                                to the first header of the next part

Files have the IDs that the server sees. Whiteouts are character devices 0:0, and an opaque directory has the
attribute `trusted.overlay.opaque`, as in the upper layer of an overlay; overlayfs.rst.
"""

from __future__ import annotations

HEADER, MANIFEST, SUMS = "vsprov-export.json", "manifest.yaml", "SHA256SUMS"
LARGEST = 4 << 20  # bytes of each of these
OPAQUE = "trusted.overlay.opaque"
DEPTH, LENGTH = 300, 4095  # levels and bytes of the path of a file in the archive


def sums_text(sums: list[tuple[str, str]]) -> bytes:
    """The content of SHA256SUMS for (part, SHA-256), as sha256sum(1) writes it."""
    return "".join(f"{digest}  {part}\n" for part, digest in sums).encode()
