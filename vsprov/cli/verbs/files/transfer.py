"""Verbs that carry servers to other hosts: export, import."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

from vsprov.cli import complete, options
from vsprov.cli.options import server_name
from vsprov.cli.verb import Settings, Verb, verb
from vsprov.engine.work import WorkOptions
from vsprov.errors import FailedError, UsageError, reason
from vsprov.model.values import digests
from vsprov.render.problems import dump
from vsprov.render.progress import progress
from vsprov.render.screen import clean, err, out
from vsprov.render.tables import amount, size

if TYPE_CHECKING:
    from vsprov.engine.transfer.exporting import Exported

STANDARD = "-"


class _ToFile(Verb):
    """A verb for which -o may also be the name of the file to write, as for tar and curl."""

    to_file = True

    def invoke(self, ctx: click.Context) -> Any:
        given = ctx.params["output"]
        if given and given not in self.outputs:
            if ctx.params["file"]:
                raise UsageError(f"-o {given}: FILE is already {ctx.params['file']}")
            ctx.params["file"], ctx.params["output"] = given, None
        return super().invoke(ctx)


@verb(
    """
vsprov export web1 -o web1.tar.zst
vsprov export web1 --snapshots web1.tar.zst
vsprov export web1 | ssh otherhost vsprov import -
tar --zstd -tvf web1.tar.zst
""",
    outputs=("text", "json"),
    cls=_ToFile,
)
@click.argument("name", metavar="SERVER", help="Name of the server.", shell_complete=complete.servers)
@click.argument(
    "file",
    metavar="[FILE]",
    default="",
    type=click.Path(),
    help="Archive to write; -o FILE is the same. [default: standard output, if it is no terminal]",
)
@click.option("--snapshots", "with_snapshots", is_flag=True, help="Also export its snapshots.")
@click.option("--no-volumes", is_flag=True, help="Do not export the volumes that it mounts.")
@click.option("--force", is_flag=True, help="Replace FILE if it exists.")
@options.lock_option
def export(
    settings: Settings,
    work: WorkOptions,
    name: str,
    file: str,
    with_snapshots: bool,
    no_volumes: bool,
    force: bool,
) -> None:
    """Writes a server, running or stopped, to one archive, a tar compressed by zstd, of which `vsprov import`
    makes it again, on this host or another one: its documents, what it has written, its volumes, and SHA-256
    checksums. Its image is named by its digest and not included; neither are memory and files of the host
    that it mounts.

    A running server is frozen while its files are copied in the state root, and so are the servers that share
    its volumes. On file systems with reflinks (btrfs, XFS) that takes no space and little time; on others as
    much of both as the files. Compressing and writing keeps nobody waiting.

    FILE is complete, or does not exist. It contains everything that the server knows: passwords and keys too.
    """
    from vsprov.engine.transfer import exporting
    from vsprov.store.disk.output_file import opened_output

    file, server = file or STANDARD, server_name(name)
    if file == STANDARD and settings.output != "text":
        raise UsageError(
            f"export: -o {settings.output}: standard output is the archive",
            hint=f"specify a file: vsprov export {server} FILE -o {settings.output}",
        )
    with (
        opened_output(file, "the export", replace=force) as fd,
        progress(settings.stderr, quiet=settings.quiet) as report,
    ):
        done = exporting.export(
            settings.instance,
            server,
            fd,
            report,
            work,
            with_volumes=not no_volumes,
            with_snapshots=with_snapshots,
        )
    _report_export(settings, server, file, done)


def _report_export(settings: Settings, server: str, file: str, done: Exported) -> None:
    header, written = done.header, done.written
    if settings.output == "json":
        out(
            dump(
                {
                    "server": server,
                    "file": file,
                    "bytes": written.bytes,
                    "sha256": written.sha256,
                    "image": digests.full(header.image),
                    "volumes": list(header.volumes),
                    "snapshots": [one.name for one in header.snapshots],
                    "files": header.files,
                    "fileBytes": header.bytes,
                }
            )
        )
    elif not settings.quiet:
        what = [amount(header.files, header.bytes)]
        what += [f"volume {one}" for one in header.volumes]
        what += [f"snapshot {one.name}" for one in header.snapshots]
        where = "standard output" if file == STANDARD else clean(file)
        err(f"Server/{server}: exported {', '.join(what)} to {where}, {size(written.bytes)}")


@contextmanager
def _opened(file: str) -> Iterator[int]:
    """The archive to import, open for reading. UsageError for a terminal as standard input."""
    if file == STANDARD and os.isatty(0):
        raise UsageError(
            "import: standard input is a terminal", hint="ssh HOST vsprov export web1 | vsprov import -"
        )
    try:
        archive = os.dup(0) if file == STANDARD else os.open(file, os.O_RDONLY | os.O_NOCTTY | os.O_CLOEXEC)
    except OSError as error:
        raise FailedError(f"{file}: open: {reason(error)}") from error
    try:
        yield archive
    finally:
        os.close(archive)


def _volume_names(given: tuple[str, ...]) -> dict[str, str]:
    found = {}
    for word in given:
        old, equals, new = word.partition("=")
        if not equals:
            raise UsageError(f"--volume {word}: not OLD=NEW")
        found[old] = new
    return found


@verb(
    """
vsprov import web1.tar.zst
vsprov import web1.tar.zst --name web2 --volume data=data2
ssh otherhost vsprov export web1 | vsprov import -
""",
    outputs=("text", "json"),
)
@click.argument("file", metavar="FILE", type=click.Path(), help="Archive of an export; - for standard input.")
@click.option("--name", metavar="NEW", default="", help="Name of the server. [default: that in the archive]")
@click.option(
    "--image",
    metavar="NAME",
    default="",
    help="Use this image of the store. [default: the one that the server was exported with]",
    shell_complete=complete.images,
)
@click.option(
    "--volume", "volumes", metavar="OLD=NEW", multiple=True, help="Name of a volume; may be repeated."
)
@click.option(
    "--trust",
    is_flag=True,
    help="Accept a server that reaches the host: by bind mounts, volumes of the host, hooks, added "
    "capabilities, links or services of the host, or an image that is made of files of the host.",
)
@click.option(
    "--max-size",
    metavar="SIZE",
    default="64Gi",
    show_default=True,
    help="The most that all of its files may have.",
)
@options.set_name_option
@options.work_options
def import_server(
    settings: Settings,
    work: WorkOptions,
    file: str,
    name: str,
    image: str,
    volumes: tuple[str, ...],
    trust: bool,
    max_size: str,
    set_name: str | None,
) -> None:
    """Creates a stopped server, with its volumes and snapshots, from an archive that `vsprov export` has
    written. It gets IDs of this host. Networks and pools that it refers to are created if there are none of
    the name.

    The archive is checked completely before anything is created: checksums, paths, links, owners, devices and
    sizes, as those of an image. What its server would reach of the host needs --trust. Names that are taken
    are refused; a copy beside the original publishes no ports and gets other addresses.

    The image has to be in the store with the same digest, or is fetched from its source if that still has it.
    To keep the server, add its manifest to yours, or `apply --prune` of the same set removes it.
    """
    from vsprov.cli.outcomes import outcome_document
    from vsprov.cli.verbs.apply import conclude
    from vsprov.engine.desired.project import owner_set
    from vsprov.engine.transfer import importing
    from vsprov.engine.transfer.package import Choice
    from vsprov.model.values import units

    try:
        most = units.parse_bytes(max_size)
    except units.UnitError as error:
        raise UsageError(f"--max-size {error}", hint=error.hint) from error
    choice = Choice(name and server_name(name), image, _volume_names(volumes), trust, most)
    label = "standard input" if file == STANDARD else file
    since = time.monotonic()
    with _opened(file) as archive, progress(settings.stderr, quiet=settings.quiet) as report:
        done = importing.import_server(
            settings.instance, archive, label, owner_set(set_name, ()), choice, report, work
        )
    if settings.output == "json":
        document = {"server": done.server, "exported": done.header.server, "volumes": list(done.volumes)}
        out(dump({**document, "outcome": outcome_document(done.outcome)}))
    conclude(settings, done.outcome, time.monotonic() - since)
    if settings.output == "text" and not settings.quiet:
        new = clean(done.server)
        err(f"  hint: vsprov start {new}; its manifest: vsprov get server {new} -o yaml")
