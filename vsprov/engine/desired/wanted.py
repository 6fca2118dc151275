"""From manifests and options to what an apply or a removal asks for."""

from __future__ import annotations

from msgspec import Struct

from vsprov.engine.apply.converge import PlanError
from vsprov.engine.desired import inputs, lockfile, selector
from vsprov.engine.desired.inputs import Inputs
from vsprov.engine.desired.project import owner_set
from vsprov.errors import ManifestError, Problem, UsageError
from vsprov.manifest.files import STDIN
from vsprov.manifest.load import Manifest
from vsprov.plan.builder import Wanted
from vsprov.store.instance import Instance


class Desired(Struct, frozen=True):
    """What an apply is asked for, the manifest it comes from, and the name of its set."""

    manifest: Manifest
    set_name: str
    wanted: Wanted


class Volumes(Struct, frozen=True):
    """Which volumes may be removed: those that are `empty`, and with their data those of these names."""

    empty: bool = False
    with_data: frozenset[str] = frozenset()

    def __bool__(self) -> bool:
        return self.empty or bool(self.with_data)


KEEP_VOLUMES = Volumes()


def to_apply(
    instance: Instance,
    given: Inputs,
    *,
    set_name: str | None = None,
    labels: str | None = None,
    prune: bool = False,
    allow_empty: bool = False,
    must_be_locked: bool = False,
    volumes: Volumes = KEEP_VOLUMES,
) -> Desired:
    """What an apply of the manifest asks for; of its servers only those that the selector `labels` selects.

    `must_be_locked` refuses image tags that the lock file has no digest for. Raises ManifestError, also for
    a manifest without objects unless `allow_empty`, and UsageError for a `prune` that could remove more than
    intended.
    """
    if prune and labels is not None:
        raise UsageError(
            "--prune: cannot be combined with -l", hint="a selection must not determine what is removed"
        )
    if volumes and not prune:
        raise UsageError(
            "--volumes, --delete-data: nothing is removed without --prune",
            hint="vsprov delete volume NAME removes a single volume",
        )
    manifest = inputs.read(given, instance)
    name = owner_set(set_name, manifest.files)
    if prune and not manifest.objects and not allow_empty:
        raise UsageError(
            f"--prune: the manifest is empty: all objects of set {name} would be removed",
            hint="use --allow-empty to remove them",
        )
    if not allow_empty:
        _refuse_empty(manifest, "use --allow-empty if there may be none")
    locked = lockfile.locked(manifest, must=must_be_locked)
    wanted = Wanted(
        instance.name,
        f"{instance.name}/{name}",
        selector.select(locked, labels),
        prune=prune,
        selected=labels is not None,
        volumes=volumes.empty,
        delete_data=volumes.with_data,
    )
    return Desired(manifest, name, wanted)


def to_remove(
    instance: Instance,
    given: Inputs,
    *,
    set_name: str | None = None,
    labels: str | None = None,
    volumes: Volumes = KEEP_VOLUMES,
) -> Desired:
    """The removal of the manifest's objects, or of those of its servers that the selector `labels` selects.

    Volumes are kept, except for `volumes`. Raises ManifestError and UsageError.
    """
    manifest = inputs.read(given, instance, references=False)
    name = owner_set(set_name, manifest.files)
    selected = selector.parse(labels) if labels is not None else None
    _refuse_empty(manifest)
    addresses = frozenset(
        one.address
        for one in manifest.objects
        if selected is None or (one.kind == "Server" and selected(one.labels))
    )
    wanted = Wanted(
        instance.name,
        f"{instance.name}/{name}",
        remove=addresses,
        volumes=volumes.empty,
        delete_data=volumes.with_data,
    )
    return Desired(manifest, name, wanted)


def _refuse_empty(manifest: Manifest, hint: str = "") -> None:
    """Raise ManifestError for a manifest without objects, such as the output of a generator that failed."""
    if not manifest.objects:
        names = ("standard input" if file == STDIN else file for file in manifest.files)
        raise ManifestError([Problem("no objects in the manifest", subject=", ".join(names), hint=hint)])


def with_positions(error: PlanError, manifest: Manifest) -> PlanError:
    """The error with the place in the manifest of each problem that has one."""
    return PlanError(manifest.located(problem) for problem in error.problems)
