"""Operations on the image store: list, pull, remove, prune, verify and deduplicate."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from msgspec import Struct
from msgspec.structs import replace

from vsprov.engine.apply import converge, recover
from vsprov.engine.apply.converge import Outcome, Proposal
from vsprov.engine.apply.exclusive import exclusive
from vsprov.engine.apply.report import Report
from vsprov.engine.look import situation
from vsprov.engine.work import DEFAULT, WorkOptions
from vsprov.errors import FailedError
from vsprov.model.kinds.image import Image
from vsprov.model.objects import Object, read_spec
from vsprov.model.suggest import not_found
from vsprov.model.values import digests
from vsprov.plan.builder import EVERY_SET, Wanted
from vsprov.plan.kinds.image import COMMITTED
from vsprov.plan.observed import Observed, ObservedImage, is_of, set_of
from vsprov.plan.reconcile import reconcile
from vsprov.plan.servers import references
from vsprov.store import images
from vsprov.store.disk.progress import Progress
from vsprov.store.images import ImageRecord, Unused
from vsprov.store.instance import Instance
from vsprov.store.layers import dedupe, layers, sizes, verify
from vsprov.store.layers.sizes import Share


class ImageView(Struct, frozen=True):
    """An image in the store, its disk usage, and the addresses of the servers that use it."""

    record: ImageRecord
    share: Share
    used_by: tuple[str, ...]


def look(instance: Instance) -> list[ImageView]:
    """All images, sorted by name. Read-only."""
    records = images.observe(instance)
    observed = situation.look(instance).observed
    present = layers.keys(instance)
    trees = {key: layers.path(instance, key) for key in present}
    wanted = {
        name: tuple(key for key in record.contents.layers if key in present)
        for name, record in records.items()
        if record.contents is not None
    }
    shares = sizes.measure(trees).images(wanted)
    nothing = sizes.Share(0, 0)
    return [
        ImageView(record, shares.get(name, nothing), tuple(_users(name, observed)))
        for name, record in sorted(records.items())
    ]


def _users(name: str, observed: Observed) -> Iterable[str]:
    for seen in observed.servers.values():
        if f"Image/{name}" in references.holds(seen):
            yield f"Server/{seen.name}"


def pull(
    instance: Instance,
    objects: Sequence[Object],
    owner: str,
    report: Report,
    *,
    work: WorkOptions = DEFAULT,
) -> Outcome:
    """Import images from the current state of their sources: resolve tags and install packages again.

    Servers keep the images they run on; the next plan shows the resulting changes.
    """
    with exclusive(instance, work, report):
        wanted = Wanted(instance.name, owner, tuple(objects), selected=True, refresh=True)
        first = converge.propose(instance, wanted)
        return converge.perform(instance, first, report, work=work)


def recorded(instance: Instance, name: str) -> Object:
    """An image of the store as an object of a manifest. FailedError if there is no such image."""
    records = images.observe(instance)
    record = records.get(name)
    if record is None:
        raise not_found("Image", name, records)
    if not record.spec:
        raise FailedError(f"Image/{name}: {record.problem}", hint="apply its manifest")
    spec = read_spec("Image", record.spec)
    assert isinstance(spec, Image)
    return Object(kind="Image", name=name, spec=spec)


def remove(
    instance: Instance, names: Sequence[str], report: Report, *, work: WorkOptions = DEFAULT
) -> Outcome:
    """Remove images and the layers that only they use. If one is in use, no image is removed."""
    with exclusive(instance, work, report):
        return _remove(instance, names, report)


def _remove(instance: Instance, names: Sequence[str], report: Report) -> Outcome:
    now = situation.look(instance)
    for name in names:
        if name not in now.observed.images:
            raise not_found("Image", name, now.observed.images)
    remove = frozenset(f"Image/{name}" for name in names)
    wanted = Wanted(instance.name, f"{instance.name}/{EVERY_SET}", selected=True, remove=remove)
    plan = reconcile(wanted, now.observed, now.machine)
    changes = tuple(change for change in plan.changes if change.kind == "Image")
    proposal = Proposal(replace(plan, changes=changes), wanted, now)
    return converge.perform(instance, proposal, report)


class Pruned(Struct, frozen=True):
    """Images to remove, unused parts of the store, and the disk space in bytes that both take up."""

    names: tuple[str, ...]
    unused: Unused
    bytes: int


def prunable(instance: Instance, *, everything: bool = False) -> Pruned:
    """What `prune` would remove; with `everything` including images that no server uses, except those made by
    `commit`, which have no source. Read-only.
    """
    observed = situation.look(instance).observed
    return _prunable(instance, observed, observed.images if everything else ())


def _prunable(instance: Instance, observed: Observed, names: Iterable[str]) -> Pruned:
    """What is unused if those of the images `names` that no server uses are removed."""
    ours = {
        name
        for name, image in observed.images.items()
        if any(is_of(owner, instance.name) for owner in image.owners) and not _is_kept(image)
    }
    names = tuple(name for name in names if name in ours and not any(_users(name, observed)))
    unused = recover.unused(instance, observed, without=names)
    measured = sizes.measure({key: layers.path(instance, key) for key in layers.keys(instance)})
    kept = sizes.Sizes({key: held for key, held in measured.layers.items() if key not in unused.layers})
    downloads = images.download_bytes(instance) if unused.downloads else 0
    return Pruned(names, unused, measured.total - kept.total + downloads)


def _is_kept(image: ObservedImage) -> bool:
    return bool(image.protected) or COMMITTED in map(set_of, image.owners)


def prune(instance: Instance, names: Sequence[str], report: Report, *, work: WorkOptions = DEFAULT) -> Pruned:
    """Remove unused layers and downloads, and those of the images `names` that no server uses.

    FailedError if an image cannot be removed; the reason has been sent to `report`.
    """
    with exclusive(instance, work, report):
        found = _prunable(instance, situation.look(instance).observed, names)
        if found.names and (errors := _remove(instance, found.names, report).errors):
            raise FailedError(f"image prune: {', '.join(errors)}: not removed")
        recover.collect(instance, situation.look(instance).observed)
        return found


def check(
    instance: Instance,
    names: Sequence[str],
    report: Report,
    progress: Progress,
    *,
    work: WorkOptions = DEFAULT,
) -> dict[str, list[str]]:
    """{image: problems of its layers}, for these images or for all; [] if an image is intact.

    It holds the lock, because the intermediate states of an apply or dedupe would look like damage. Damaged
    layers are marked, so that the next import of an image makes them again.
    """
    with exclusive(instance, work, report):
        return _check_all(instance, names, progress)


def _check_all(instance: Instance, names: Sequence[str], progress: Progress) -> dict[str, list[str]]:
    records = images.observe(instance)
    for name in names:
        if name not in records:
            raise not_found("Image", name, records)
    by_layer: dict[str, list[str]] = {}
    found: dict[str, list[str]] = {}
    for name in names or sorted(records):
        record = records[name]
        # Whether a layer is damaged shows below.
        found[name] = [record.problem] if record.problem and not _is_only_damaged(record, instance) else []
        for key in record.contents.layers if record.contents else ():
            if key not in by_layer:
                by_layer[key] = _check(instance, key, progress)
            found[name] += [f"layer {digests.short(key)}: {line}" for line in by_layer[key]]
    return found


def _is_only_damaged(record: ImageRecord, instance: Instance) -> bool:
    made_of = record.contents
    return made_of is not None and layers.keys(instance).issuperset(made_of.layers)


def _check(instance: Instance, key: str, progress: Progress) -> list[str]:
    if key not in layers.keys(instance):
        return []  # reported as the problem of the record
    try:
        found = verify.verify(layers.path(instance, key), progress)
    except FailedError as error:
        found = [str(error)]
    layers.mark_damaged(instance, key, bool(found))
    return found


def plan_dedupe(instance: Instance) -> dedupe.Plan:
    """The equal files of different layers that could share their data. Read-only."""
    paths = {key: layers.path(instance, key) for key in sorted(layers.keys(instance))}
    known = images.manifests(instance).values()
    return dedupe.find(paths, [made_of.layers for made_of in known if made_of is not None])


def link_equal(
    instance: Instance, report: Report, progress: Progress, *, work: WorkOptions = DEFAULT
) -> tuple[dedupe.Plan, dedupe.Done]:
    """Make equal files of different layers share their data. Servers see no difference."""
    with exclusive(instance, work, report):
        plan = plan_dedupe(instance)
        return plan, dedupe.apply(plan, progress, report.notice)
