"""Verbs about the image store: image ls, rm, prune, verify, dedupe."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import click

from vsprov.cli import complete, options
from vsprov.cli.approval import DECLINED, confirm
from vsprov.cli.verb import Settings, verb
from vsprov.engine.apply.converge import Outcome
from vsprov.engine.desired.pull import image_name
from vsprov.engine.images import imagestore
from vsprov.engine.work import WorkOptions
from vsprov.errors import UsageError
from vsprov.kernel import process
from vsprov.model.values import digests
from vsprov.render import plan as plan_text
from vsprov.render import tables
from vsprov.render.problems import counted, dump, errors_as_json
from vsprov.render.progress import progress
from vsprov.render.screen import clean, err, out

images_argument = click.argument(
    "names", metavar="[NAME...]", nargs=-1, help="Names of images.", shell_complete=complete.images
)


@verb(
    """
vsprov image ls
vsprov image ls -o json | jq '.items[] | select(.usedBy == [])'
""",
    outputs=("text", "wide", "json", "yaml", "name"),
)
def ls(settings: Settings) -> None:
    """Lists images with their disk usage: SIZE is the total, SHARED the size of files that other images use
    too, PRIVATE the size of the other files, which removing the image would free.
    """
    process.require_root("image ls: reading the image store")
    views = imagestore.look(settings.instance)
    items = [_document(view) for view in views]
    match settings.output:
        case "json":
            out(dump({"items": items}))
        case "yaml":
            out(_yaml({"items": items}))
        case "name":
            out("\n".join(f"Image/{clean(item['name'])}" for item in items))
        case _ if not items:
            out("No images found. Add them with: vsprov image pull, or vsprov apply")
        case form:
            out(tables.text(tables.images(items, wide=form == "wide"), settings.stdout))
    for view in views:
        if view.record.problem:
            err(f"Image/{clean(view.record.name)}: {clean(view.record.problem)}")
            err("  hint: apply its manifest again")


def _document(view: imagestore.ImageView) -> dict[str, Any]:
    record = view.record
    return {
        "name": record.name,
        "source": dict(record.spec.get("source", {})),
        "digest": digests.full(record.digest) or None,
        "layers": len(record.contents.layers) if record.contents else 0,
        "size": view.share.total,
        "shared": view.share.shared,
        "private": view.share.private,
        "usedBy": list(view.used_by),
        "sets": sorted(owner.set for owner in record.owners),
        "problem": record.problem or None,
    }


def _yaml(document: Any) -> str:
    import yaml

    return yaml.safe_dump(document, sort_keys=False, allow_unicode=True)


@verb("vsprov image rm old-base", outputs=("text", "json"))
@images_argument
@options.work_options
def rm(settings: Settings, work: WorkOptions, names: tuple[str, ...]) -> None:
    """Removes images from the store, and the layers that no other image uses. If a server uses one of the
    images, none is removed.
    """
    if not names:
        raise UsageError("image rm: no image given", hint="vsprov image ls lists the images")
    process.require_root("image rm: removing images")
    bare = list(map(image_name, names))
    with progress(settings.stderr, quiet=settings.quiet) as report:
        outcome = imagestore.remove(settings.instance, bare, report, work=work)
    conclude(settings, outcome, "removed")


def conclude(settings: Settings, outcome: Outcome, done: str) -> None:
    """Print which images were changed; raises Exit if one failed or still differs."""
    made = [change.address for change in outcome.proposal.plan.objects if change.key not in outcome.errors]
    same = list(outcome.proposal.plan.unchanged)
    if settings.output == "json":
        out(dump({"done": made, "unchanged": same, "errors": errors_as_json(outcome.errors)}))
    elif not settings.quiet:
        for address in same:
            err(f"{clean(address)}: up to date")
        if made:
            err(f"{counted(len(made), 'image')} {done}.")
    if outcome.errors:
        raise click.exceptions.Exit(1)
    if outcome.left is not None and not outcome.left.empty:
        err(f"vsprov: {plan_text.left_over(outcome.left, settings.stderr)}")
        raise click.exceptions.Exit(1)


@verb(
    """
vsprov image prune --dry-run
vsprov image prune --all -y                           # in a nightly job
""",
    outputs=("text", "json"),
)
@click.option("--all", "-a", "everything", is_flag=True, help="Also remove images that no server uses.")
@click.option("--dry-run", is_flag=True, help="Only show what would be removed.")
@options.yes_option
@options.work_options
def prune(settings: Settings, work: WorkOptions, everything: bool, dry_run: bool, yes: bool) -> None:
    """Removes layers that no image and no server uses, and incomplete downloads. With --all it also removes
    images that no server uses, except those made by `vsprov commit`, which cannot be made again.
    """
    process.require_root("image prune: removing images")
    found = imagestore.prunable(settings.instance, everything=everything)
    if not dry_run:
        if found.names and not yes and not confirm(f"Remove {', '.join(found.names)}?"):
            raise click.exceptions.Exit(DECLINED)
        with progress(settings.stderr, quiet=True) as report:  # what is removed is printed below
            found = imagestore.prune(settings.instance, found.names, report, work=work)
    if settings.output == "json":
        unused = found.unused
        kinds = {"layers": list(unused.layers), "downloads": list(unused.downloads)}
        out(dump({"images": list(found.names), **kinds, "bytes": found.bytes, "dryRun": dry_run}))
        return
    removed = "would be removed" if dry_run else "removed"
    for name in found.names:
        out(f"image {clean(name)} {removed}")
    for key in found.unused.layers:
        out(f"layer {digests.short(key)} {removed}")
    for name in found.unused.downloads:
        out(f"download {clean(name)} {removed}")
    out(f"{tables.size(found.bytes)} {'would be freed' if dry_run else 'freed'}")


@verb(
    """
vsprov image verify
vsprov image verify debian-12 -o json
""",
    outputs=("text", "json"),
)
@images_argument
@options.work_options
def verify(settings: Settings, work: WorkOptions, names: tuple[str, ...]) -> None:
    """Reads every file of the named images, or of all images, and compares content, owner, mode, times and
    attributes with those recorded when the layer was created. Exit code 1 if there is a difference.
    """
    process.require_root("image verify: reading the image store")
    with progress(settings.stderr, quiet=settings.quiet) as report:
        found = imagestore.check(
            settings.instance,
            list(map(image_name, names)),
            report,
            lambda *state: report.progressed("images", *state),
            work=work,
        )
    if settings.output == "json":
        out(dump({name: {"ok": not lines, "differences": lines} for name, lines in found.items()}))
    else:
        for name, lines in found.items():
            out(f"{clean(name)}: {'DAMAGED' if lines else 'ok'}")
            for line in lines:
                out(f"  {clean(line)}")
    if any(found.values()):
        damaged = " ".join(clean(name) for name, lines in found.items() if lines)
        err(f"  hint: vsprov image pull {damaged} imports the damaged layers again")
        err("  hint: servers that run on them keep them until the next apply, which restarts these servers")
        raise click.exceptions.Exit(1)


@verb(
    """
vsprov image dedupe --dry-run
vsprov image dedupe
""",
    outputs=("text", "json"),
)
@click.option("--dry-run", is_flag=True, help="Only show what would be saved.")
@options.work_options
def dedupe(settings: Settings, work: WorkOptions, dry_run: bool) -> None:
    """Replaces files of different layers that have the same content, owner, mode, times and attributes with
    one shared file, which saves disk space and memory (Linux-VServer: unification). Files are compared
    byte by byte first. Servers may run meanwhile; the disk is used with low priority.
    """
    process.require_root("image dedupe: changing the image store")
    failures: Sequence[str] = ()
    if dry_run:
        plan = imagestore.plan_dedupe(settings.instance)
        files, saved = plan.files, plan.bytes
    else:
        with progress(settings.stderr, quiet=settings.quiet) as report:
            plan, done = imagestore.link_equal(
                settings.instance,
                report,
                lambda *state: report.progressed("images", *state),
                work=work,
            )
        files, saved, failures = done.files, done.bytes, done.failures
    if settings.output == "json":
        left = {"failures": list(failures), "leftOut": list(plan.left_out), "dryRun": dry_run}
        out(dump({"files": files, "bytes": saved, **left}))
    else:
        for line in (*plan.left_out, *failures):
            err(clean(line))
        what = counted(files, "file")
        would = "would be " if dry_run else ""
        out(f"{what} {would}replaced by shared files; {tables.size(saved)} {would}saved")
    if failures:
        raise click.exceptions.Exit(1)
