"""`vsprov init`: the files of a new infrastructure repository."""

from __future__ import annotations

import os
import re

import click

from vsprov.cli import complete_paths
from vsprov.cli.schemas import packaged
from vsprov.cli.verb import Settings, verb
from vsprov.engine.desired.project import DEFAULT_SET
from vsprov.errors import FailedError, reason
from vsprov.manifest.files import PROJECT
from vsprov.render.screen import clean, out
from vsprov.store.disk.output_file import write_new

README = """# {name}

The servers of this host, managed by vsprov.

    vsprov validate servers     # check the manifests (does not need root)
    sudo vsprov plan servers    # show what would change, and what it costs
    sudo vsprov apply servers   # apply the changes
    sudo vsprov get             # show the current state

`vsprov.yaml` names the set that these objects belong to: `vsprov apply servers --prune` removes objects of
the set that are no longer in these files.
"""
PROJECT_TEXT = """# The set that all objects of this repository belong to.
set: {name}
"""
EXAMPLE = """# yaml-language-server: $schema=../.vsprov.schema.json
# The image of all servers is the /usr of the host: nothing to download, nothing to copy.
apiVersion: vsprov/v1
kind: Image
metadata:
  name: host
spec:
  source:
    host: {}
---
apiVersion: vsprov/v1
kind: Quota
metadata:
  name: small
spec:
  cpu:
    limit: 500m
  memory:
    max: 256Mi
  pids:
    max: 128
---
apiVersion: vsprov/v1
kind: Server
metadata:
  name: web
  labels:
    tier: web
spec:
  image: host
  quota: small
  init:
    command: [/bin/sh, -c, 'echo "web is up"; exec sleep infinity']
"""
IGNORED = """*.plan
"""


@verb(
    """
vsprov init demo
cd demo && sudo vsprov apply servers
"""
)
@click.argument(
    "folder",
    metavar="DIR",
    help="Directory to create the repository in.",
    shell_complete=complete_paths.folders,
)
def init(settings: Settings, folder: str) -> None:
    """Creates a directory with a project file, an example server, a README, the schema for editors and a
    .gitignore. Existing files are kept.
    """
    name = (
        re.sub(r"[^a-z0-9._-]+", "-", os.path.basename(os.path.abspath(folder)).lower()).strip("-._")[:63]
        or DEFAULT_SET
    )
    files = {
        PROJECT: PROJECT_TEXT.format(name=name),
        "servers/web.yaml": EXAMPLE,
        "README.md": README.format(name=name),
        ".vsprov.schema.json": packaged("manifest"),
        ".gitignore": IGNORED,
    }
    for path, content in files.items():
        created = _write_new(os.path.join(folder, path), content)
        if not settings.quiet:
            out(f"{'created' if created else 'kept'}  {clean(os.path.join(folder, path))}")
    if not settings.quiet:
        out(f"Next: cd {clean(folder)} && sudo vsprov apply servers")


def _write_new(path: str, content: str) -> bool:
    """Create the file, and its directories; False if it exists."""
    folder = os.path.dirname(os.path.abspath(path))
    try:
        os.makedirs(folder, exist_ok=True)
    except FileExistsError:
        raise FailedError(f"{path}: write it: a parent is not a directory") from None
    except OSError as error:
        raise FailedError(f"{path}: write it: {reason(error)}") from error
    return write_new(path, content.encode(), "it")
