"""The image of a server that is imported: in the store by its digest, or fetched from its source."""

from __future__ import annotations

from msgspec import Struct
from msgspec.structs import replace

from vsprov.engine.apply.converge import Proposal
from vsprov.engine.apply.report import Report
from vsprov.errors import FailedError
from vsprov.model.kinds.image import Image
from vsprov.model.kinds.server import Server
from vsprov.model.objects import Object
from vsprov.model.suggest import not_found
from vsprov.model.values import digests
from vsprov.store import images
from vsprov.store.instance import Instance

HINT = "apply the manifest of its image here; --image NAME uses another image of this host instead"


class Chosen(Struct, frozen=True):
    """The name of the image, its digest, and the image itself if it has to be `fetched`."""

    name: str
    digest: str
    fetched: Object | None = None

    def refuse_other(self, proposal: Proposal, label: str) -> None:
        """FailedError if the source does not, or no longer, have what the server was exported with."""
        if self.fetched is None:
            return
        found = proposal.resolved.get(self.name)
        if found is None or found.digest != self.digest:
            now = f"its source now is {digests.full(found.digest)}" if found else "its source cannot be read"
            problem = next((str(each.message) for each in proposal.plan.problems), "")
            why = f"{now}: {problem}" if found is None and problem else now
            wanted = f"image {self.name} with {digests.full(self.digest)}"
            raise FailedError(f"{label}: import: {wanted} is not in the store: {why}", hint=HINT)


def choose(
    instance: Instance, server: Object, image: Object | None, digest: str, other: str, report: Report
) -> Chosen:
    """The image for a server that was exported with `digest`; `other` is the one that the user names.

    FailedError if it is not in the store, and the archive does not say where it comes from.
    """
    assert isinstance(server.spec, Server)
    name, known = server.spec.image, images.observe(instance)
    if other:
        if other not in known:
            raise not_found("Image", other, known)
        if known[other].problem:
            raise FailedError(f"Image/{other}: {known[other].problem}")
        if known[other].digest != digest:
            report.notice(
                f"Server/{server.name}: was exported with image {digests.short(digest)}, and gets {other}, "
                f"{digests.short(known[other].digest)}"
            )
        return Chosen(other, known[other].digest)
    if images.is_whole(instance, digest):
        same = [record.name for record in known.values() if record.digest == digest]
        return Chosen(name if name in same or not same else same[0], digest)
    wanted = f"{digests.full(digest)}, which Server/{server.name} was exported with"
    if name in known:
        have = known[name].problem or f"it is {digests.full(known[name].digest)} here"
        raise FailedError(f"Image/{name}: import: {have}, not {wanted}", hint=HINT)
    if image is None or not isinstance(image.spec, Image):
        raise FailedError(f"Image/{name}: import: is not in the store: {wanted}", hint=HINT)
    if image.spec.source.commit is not None:
        raise FailedError(
            f"Image/{name}: import: was made by vsprov commit on another host: {wanted}",
            hint="--image NAME uses another image of this host instead",
        )
    return Chosen(name, digest, _pinned(image, digest))


def _pinned(image: Object, digest: str) -> Object:
    """The image with the digest, if its source has several versions."""
    assert isinstance(image.spec, Image)
    source = image.spec.source
    if source.oci is None or source.oci.ref is None:
        return image
    oci = replace(source.oci, digest=digests.full(digest))
    return replace(image, spec=replace(image.spec, source=replace(source, oci=oci)))
