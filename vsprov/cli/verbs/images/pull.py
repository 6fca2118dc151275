"""Verbs that ask the sources of images: image pull, image lock."""

from __future__ import annotations

import click

from vsprov.cli import options
from vsprov.cli.verb import Settings, verb
from vsprov.cli.verbs.images.store import conclude
from vsprov.engine.desired.inputs import Inputs, read
from vsprov.engine.desired.lockfile import write_lock
from vsprov.engine.desired.pull import to_pull
from vsprov.engine.images import imagestore
from vsprov.engine.work import WorkOptions
from vsprov.kernel import process
from vsprov.render.problems import dump
from vsprov.render.progress import progress
from vsprov.render.screen import clean, err, out


@verb(
    """
vsprov image pull servers/                            # the images of a manifest
vsprov image pull debian-12                           # an image in the store, from its source again
vsprov image pull docker.io/library/alpine:3.20 --name alpine
""",
    outputs=("text", "json"),
)
@click.option("--name", metavar="NAME", help="Name for the image of a reference.")
@click.option(
    "--insecure", is_flag=True, help="Allow a registry without TLS, or with an untrusted certificate."
)
@options.set_name_option
@options.manifest_inputs
@options.work_options
def pull(
    settings: Settings,
    inputs: Inputs,
    work: WorkOptions,
    name: str | None,
    insecure: bool,
    set_name: str | None,
) -> None:
    """Fetches images into the store: the images of manifests, images that are in the store already (by name),
    or one image from a registry (by reference, with --name). Tags are resolved again, and packages
    are installed again.

    Running servers keep their current image; the next plan shows which servers a new digest would restart.
    """
    options.require_paths("image pull", inputs)
    wanted = to_pull(settings.instance, inputs, name=name, insecure=insecure, set_name=set_name)
    settings.warn(wanted.manifest)
    process.require_root("image pull: writing to the image store")
    with progress(settings.stderr, quiet=settings.quiet) as report:
        report.expect(len(wanted.images))
        outcome = imagestore.pull(settings.instance, wanted.images, wanted.owner, report, work=work)
    conclude(settings, outcome, "pulled")


@verb(
    """
vsprov image lock servers/
git add vsprov.lock.yaml
vsprov apply servers/ --locked                        # refuses tags that are not in the lock file
""",
    outputs=("text", "json"),
)
@options.manifest_inputs
def lock(settings: Settings, inputs: Inputs) -> None:
    """Resolves the image tags in a manifest to digests, and writes them to vsprov.lock.yaml, next to the
    project file or the manifest. From then on plan and apply use these digests, even if the registry
    changes the tags; with --locked they refuse tags that are not in the file.
    """
    options.require_paths("image lock", inputs)
    manifest = read(inputs, references=False)
    path, locked = write_lock(manifest)
    if settings.output == "json":
        out(dump({"path": path, "images": dict(locked)}))
    elif not settings.quiet:
        for reference, digest in locked.items():
            out(f"{clean(reference)}  {digest}")
        err(f"Saved to {clean(path)}.")
