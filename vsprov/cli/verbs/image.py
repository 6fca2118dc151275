"""The verbs about the image store: image ls, pull, rm, prune, verify, dedupe, lock."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Annotated, Any

import typer

from vsprov.cli import complete
from vsprov.cli.options import (
    ChangingVerb,
    ManifestVerb,
    SetName,
    Settings,
    Verb,
    Yes,
    inputs_of,
    settings,
    settings_of,
    verb,
    work,
    work_of,
)
from vsprov.cli.verbs.apply import confirm
from vsprov.cli.verbs.manifest import warn
from vsprov.engine.apply.converge import Outcome
from vsprov.engine.desired.inputs import Inputs, read, stored_images
from vsprov.engine.desired.lockfile import locked, write_lock
from vsprov.engine.desired.project import owner_set
from vsprov.engine.images import imagestore
from vsprov.errors import UsageError
from vsprov.kernel import process
from vsprov.model import digests
from vsprov.model.objects import API_VERSION, Image, Object
from vsprov.render import plan as plan_text
from vsprov.render import tables
from vsprov.render.problems import dump
from vsprov.render.progress import progress
from vsprov.render.screen import clean, err, out

ImageNames = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="NAME...", help="Names of images.", show_default=False, autocompletion=complete.images
    ),
]


class LockedVerb(Verb):
    """A verb that works on the store as a whole."""

    shared = (work, settings)


@verb(
    """
vsprov image ls
vsprov image ls -o json | jq '.items[] | select(.used_by == [])'
"""
)
def ls(ctx: typer.Context) -> None:
    """Shows each image with what it takes on disk: in all, in files that other images have as well, and in
    files that only it has: what removing it would free.

    Outputs (-o): text, wide, json, yaml, name.
    """
    settings = settings_of(ctx)
    form = settings.choose("text", "wide", "json", "yaml", "name")
    process.require_root("image ls: reading the image store")
    views = imagestore.look(settings.instance)
    items = [_document(view) for view in views]
    if form in ("json", "yaml"):
        out(dump({"items": items}) if form == "json" else _yaml({"items": items}))
    elif form == "name":
        out("\n".join(f"image/{clean(item['name'])}" for item in items))
    elif not items:
        out("There is no image yet; `vsprov apply` and `vsprov image pull` bring them.")
    else:
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
        "used_by": list(view.used_by),
        "set": record.owner.set if record.owner else None,
        "problem": record.problem or None,
    }


def _yaml(document: Any) -> str:
    import yaml

    return yaml.safe_dump(document, sort_keys=False, allow_unicode=True)


@verb(
    """
vsprov image pull servers/                            # the images of a manifest, before its servers need them
vsprov image pull debian-12                           # what its tag leads to now, or its packages anew
vsprov image pull docker.io/library/alpine:3.20 --name alpine
""",
    ChangingVerb,
)
def pull(
    ctx: typer.Context,
    name: Annotated[
        str | None, typer.Option("--name", metavar="NAME", help="What to call the image of a reference.")
    ] = None,
    insecure: Annotated[
        bool,
        typer.Option("--insecure", help="The registry may have no TLS, or an unknown certificate."),
    ] = False,
    set_name: SetName = None,
) -> None:
    """Brings images into the store: those of manifests, those the store has already (by name), or one from a
    registry (by reference, with --name). Tags are looked up anew, and packages installed anew.

    Running servers stay on what they run on; the next plan shows which would restart on another digest.

    Outputs (-o): text, json.
    """
    settings, given, work = settings_of(ctx), inputs_of(ctx), work_of(ctx)
    form = settings.choose("text", "json")
    owner, wanted = _meant(settings, given, name, insecure, set_name)
    process.require_root("image pull: writing to the image store")
    with progress(settings.stderr, quiet=settings.quiet) as report:
        report.expect(len(wanted))
        outcome = imagestore.pull(
            settings.instance, wanted, owner, report,
            parallelism=work.parallelism, lock_timeout=work.lock_timeout,
        )  # fmt: skip
    _conclude(settings, form, outcome, "pulled")


def _meant(
    settings: Settings, given: Inputs, name: str | None, insecure: bool, set_name: str | None
) -> tuple[str, list[Object]]:
    """(owner, images) of what the command line names."""
    instance = settings.instance
    stored = stored_images(instance) or frozenset()
    rest = [name for name in map(_bare, given.paths) if name in stored]
    others = [path for path in given.paths if _bare(path) not in stored]
    paths = [path for path in others if path == "-" or os.path.exists(path)]
    unknown = [path for path in others if path not in paths]
    references = [path for path in unknown if "/" in path or ":" in path or "@" in path]
    rest += [path for path in unknown if path not in references]
    if references:
        if len(given.paths) > 1 or name is None:
            raise UsageError(
                f"image pull {references[0]}: an image from a registry needs a name, and is pulled alone",
                hint=f"vsprov image pull {references[0]} --name NAME; or is this meant to be a file?",
            )
        found = _of_reference(references[0], name, insecure)
        return f"{instance.name}/{owner_set(set_name, ())}", [found]
    if name is not None or insecure:
        raise UsageError("--name and --insecure are for an image from a registry, by its reference")
    if paths and rest:
        raise UsageError(
            f"image pull: {rest[0]} is not a file, and {paths[0]} is one",
            hint="pull the images of manifests and those the store has apart",
        )
    if rest:
        from vsprov.store import images

        process.require_root("image pull: reading the image store")

        objects = [imagestore.recorded(instance, one) for one in rest]
        owners = {str(images.observe(instance)[one].owner) for one in rest}
        if len(owners) > 1:
            raise UsageError(f"image pull: these images are of several sets: {', '.join(sorted(owners))}")
        return owners.pop(), objects
    manifest = read(given, instance, references=False)
    warn(manifest, settings)
    wanted = locked(given.paths, manifest, must=False)
    objects = [one for one in wanted if isinstance(one.spec, Image)]
    return f"{instance.name}/{owner_set(set_name, given.paths)}", objects


def _of_reference(reference: str, name: str, insecure: bool) -> Object:
    from vsprov.manifest import load as manifests

    spec = {"source": {"oci": {"ref": reference, "insecure": insecure}}}
    document = {"apiVersion": API_VERSION, "kind": "Image", "metadata": {"name": name}, "spec": spec}
    return manifests.load_documents([document]).objects[0]


@verb(
    """
vsprov image rm old-base
""",
    LockedVerb,
)
def rm(ctx: typer.Context, names: ImageNames = None) -> None:
    """Removes images from the store, with the layers that only they had. An image that a server is on is
    refused, and then none is removed.

    Outputs (-o): text, json.
    """
    settings = settings_of(ctx)
    form = settings.choose("text", "json")
    if not names:
        raise UsageError("image rm: no image named", hint="vsprov image ls lists them")
    process.require_root("image rm: removing images")
    bare = list(map(_bare, names))
    with progress(settings.stderr, quiet=settings.quiet) as report:
        outcome = imagestore.remove(settings.instance, bare, report, lock_timeout=work_of(ctx).lock_timeout)
    _conclude(settings, form, outcome, "removed")


def _bare(name: str) -> str:
    """The name of an image in `NAME` or `image/NAME`."""
    kind, slash, rest = name.partition("/")
    return rest if slash and kind.lower() == "image" else name


def _conclude(settings: Settings, form: str, outcome: Outcome, done: str) -> None:
    made = [change.address for change in outcome.draft.plan.objects if change.key not in outcome.errors]
    same = list(outcome.draft.plan.unchanged)
    if form == "json":
        errors = [
            {"address": key, "message": str(error), "hint": error.hint}
            for key, error in outcome.errors.items()
        ]
        out(dump({"done": made, "unchanged": same, "errors": errors}))
    elif not settings.quiet:
        for address in same:
            err(f"{clean(address)}: is as its source has it")
        if made:
            err(f"{len(made)} {'image' if len(made) == 1 else 'images'} {done}.")
    if outcome.errors:
        raise typer.Exit(1)
    if outcome.left is not None and not outcome.left.empty:
        err(f"vsprov: {plan_text.left_over(outcome.left, outcome.exits, settings.stderr)}")
        raise typer.Exit(1)


@verb(
    """
vsprov image prune --dry-run
vsprov image prune --all -y                           # in a nightly job
""",
    LockedVerb,
)
def prune(
    ctx: typer.Context,
    everything: Annotated[
        bool, typer.Option("--all", "-a", help="Also remove images that no server uses.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be removed.")] = False,
    yes: Yes = False,
) -> None:
    """Removes what is left over: layers that no image has and no server runs on, and downloads that were
    never finished. With --all images that no server uses go, too.

    Outputs (-o): text, json.
    """
    settings = settings_of(ctx)
    form = settings.choose("text", "json")
    process.require_root("image prune: removing images")
    found = imagestore.prunable(settings.instance, everything=everything)
    if not dry_run:
        if found.names and not yes and not confirm(f"Remove {', '.join(found.names)}?"):
            raise typer.Exit(130)
        with progress(settings.stderr, quiet=True) as report:  # what goes is told below
            found = imagestore.prune(
                settings.instance, found.names, report, lock_timeout=work_of(ctx).lock_timeout
            )
    if form == "json":
        unused = found.unused
        kinds = {"layers": list(unused.layers), "downloads": list(unused.downloads)}
        out(dump({"images": list(found.names), **kinds, "bytes": found.bytes, "dry_run": dry_run}))
        return
    would = "would be removed" if dry_run else "removed"
    for name in found.names:
        out(f"image {clean(name)} {would}")
    for key in found.unused.layers:
        out(f"layer {digests.short(key)} {would}")
    for name in found.unused.downloads:
        out(f"download {clean(name)} {would}")
    out(f"{tables.size(found.bytes)} {'would be freed' if dry_run else 'freed'}")


@verb(
    """
vsprov image verify
vsprov image verify debian-12 -o json
""",
    LockedVerb,
)
def verify(ctx: typer.Context, names: ImageNames = None) -> None:
    """Reads every file of these images (or of all) again, and compares content, owner, mode, times and
    attributes with what was noted when the layer was made. Exit code 1 when anything differs.

    Outputs (-o): text, json.
    """
    settings = settings_of(ctx)
    form = settings.choose("text", "json")
    process.require_root("image verify: reading the image store")
    with progress(settings.stderr, quiet=settings.quiet) as report:
        found = imagestore.check(
            settings.instance,
            list(map(_bare, names or ())),
            report,
            lambda *told: report.progressed("images", *told),
            lock_timeout=work_of(ctx).lock_timeout,
        )
    if form == "json":
        out(dump({name: {"ok": not lines, "differences": lines} for name, lines in found.items()}))
    else:
        for name, lines in found.items():
            out(f"{clean(name)}: {'as it was made' if not lines else 'DAMAGED'}")
            for line in lines:
                out(f"  {clean(line)}")
    if any(found.values()):
        err("  hint: stop the servers on it, vsprov image rm it, and apply again: it is then made anew")
        raise typer.Exit(1)


@verb(
    """
vsprov image dedupe --dry-run
vsprov image dedupe
""",
    LockedVerb,
)
def dedupe(
    ctx: typer.Context,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be saved.")] = False,
) -> None:
    """Makes files of different layers one file on disk, and so in memory, where content, owner, mode, times
    and attributes are the same (what Linux-VServer called unification). Every byte is compared first.
    Servers may run meanwhile; it gives way to other work on the disk.

    Outputs (-o): text, json.
    """
    settings = settings_of(ctx)
    form = settings.choose("text", "json")
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
                lambda *told: report.progressed("images", *told),
                lock_timeout=work_of(ctx).lock_timeout,
            )
        files, saved, failures = done.files, done.bytes, done.failures
    if form == "json":
        left = {"failures": list(failures), "left_out": list(plan.left_out), "dry_run": dry_run}
        out(dump({"files": files, "bytes": saved, **left}))
    else:
        for line in (*plan.left_out, *failures):
            err(clean(line))
        verb = "could be one with another" if dry_run else "made one with another"
        what = f"{files} {'file' if files == 1 else 'files'}"
        out(f"{what} {verb}; {tables.size(saved)} {'would be saved' if dry_run else 'saved'}")
    if failures:
        raise typer.Exit(1)


@verb(
    """
vsprov image lock servers/
git add vsprov.lock.yaml
vsprov apply servers/ --locked                        # nothing that is not in the lock file
""",
    ManifestVerb,
)
def lock(ctx: typer.Context) -> None:
    """Asks registries which digests the tags of a manifest's images lead to now, and writes them to
    vsprov.lock.yaml, beside the project file or the manifest. plan and apply then use these digests,
    whatever the tags lead to by then; with --locked they refuse a tag that is not in it.

    Outputs (-o): text, json.
    """
    settings, given = settings_of(ctx), inputs_of(ctx)
    form = settings.choose("text", "json")
    manifest = read(given, references=False)
    path, locked = write_lock(given.paths, manifest.objects)
    if form == "json":
        out(dump({"path": path, "images": dict(locked)}))
    elif not settings.quiet:
        for reference, digest in locked.items():
            out(f"{clean(reference)}  {digest}")
        err(f"Written to {clean(path)}.")
