"""`vsprov init`: the files of a new infrastructure repository."""

from __future__ import annotations

import os
import re
from typing import Annotated

import typer

from vsprov.cli.options import settings_of, verb
from vsprov.cli.schemas import packaged
from vsprov.engine.desired.project import DEFAULT_SET
from vsprov.errors import FailedError, reason
from vsprov.manifest.files import PROJECT
from vsprov.render.screen import clean, out

README = """# {name}

The servers of this host, kept by vsprov.

    vsprov validate servers     # is it right? (needs no root)
    sudo vsprov plan servers    # what would change, and what it costs
    sudo vsprov apply servers   # do it
    sudo vsprov get             # what there is

`vsprov.yaml` names the set these objects belong to: `vsprov apply servers --prune` removes what the set had
and these files no longer have.
"""
PROJECT_TEXT = """# The set that all objects of this repository belong to.
set: {name}
"""
EXAMPLE = """# yaml-language-server: $schema=../.vsprov.schema.json
# The host's own /usr as the image of all servers: nothing to download, nothing to copy.
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
def init(
    ctx: typer.Context,
    folder: Annotated[
        str, typer.Argument(metavar="DIR", help="The folder to make it in.", show_default=False)
    ],
) -> None:
    """Makes a folder with a project file, an example server, a README, the schema for editors and a
    .gitignore. Files that are there already stay as they are.
    """
    settings = settings_of(ctx)
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
        made = _write_new(os.path.join(folder, path), content)
        if not settings.quiet:
            out(f"{'made' if made else 'kept'}  {clean(os.path.join(folder, path))}")
    if not settings.quiet:
        out(f"Next: cd {clean(folder)} && sudo vsprov apply servers")


def _write_new(path: str, content: str) -> bool:
    """Make the file; False when something is there already."""
    try:
        os.makedirs(os.path.dirname(os.path.abspath(path)), exist_ok=True)
        with open(path, "x", encoding="utf-8") as file:
            file.write(content)
    except FileExistsError:
        if os.path.isdir(os.path.dirname(os.path.abspath(path))):
            return False
        raise FailedError(f"{path}: make it: something that is no folder is in the way") from None
    except OSError as error:
        raise FailedError(f"{path}: make it: {reason(error)}") from error
    return True
