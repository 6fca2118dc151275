"""What is in an archive, and what is made of it on this host."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from msgspec import Struct, field
from msgspec.structs import replace

from vsprov.engine.apply.report import Report
from vsprov.engine.servers.files.clone import copy_of, unprotected, with_volumes
from vsprov.engine.servers.names import taken
from vsprov.engine.transfer import documents, trust
from vsprov.engine.transfer.image import Chosen, choose
from vsprov.errors import FailedError, UsageError
from vsprov.manifest import load as manifests
from vsprov.model.kinds.server import Server
from vsprov.model.objects import Object
from vsprov.plan.compare import applied
from vsprov.plan.observed import Observed
from vsprov.plan.volumes.state import volumes as observed_volumes
from vsprov.store import recorded
from vsprov.store.instance import Instance
from vsprov.store.transfer.header import Header
from vsprov.store.unpack.exported.layout import MANIFEST

MOST_BYTES = 64 << 30  # as of images


class Choice(Struct, frozen=True):
    """What the user has chosen: another `name` for the server, another `image` of the store, other names of
    `volumes`; "" and {} for those in the archive. `trusted`: the server may reach the host.
    """

    name: str = ""
    image: str = ""
    volumes: Mapping[str, str] = field(default_factory=dict)
    trusted: bool = False
    most_bytes: int = MOST_BYTES


class Package(Struct, frozen=True):
    """The header and the documents of an archive; `others` are networks and pools."""

    header: Header
    server: Object
    image: Object | None
    volumes: Mapping[str, Object]
    others: tuple[Object, ...]

    @staticmethod
    def of(header: Header, manifest: str, label: str) -> Package:
        """The documents in `manifest`, which are what the header says. FailedError, ManifestError."""
        found = manifests.load_text(manifest, f"{label}: {MANIFEST}")
        by_address = {one.address: one for one in found.objects}
        server = by_address.pop(f"Server/{header.server}", None)
        if server is None or not isinstance(server.spec, Server):
            raise FailedError(f"{label}: {MANIFEST} has no Server/{header.server}")
        spec = server.spec
        image = by_address.pop(f"Image/{spec.image}", None)
        kept = {name: by_address.pop(f"Volume/{name}", None) for name in documents.mounted(spec)}
        named = {f"Network/{one.network}" for one in spec.interfaces} | {f"Quota/{spec.quota}"}
        others = tuple(by_address.pop(address) for address in sorted(named & by_address.keys()))
        carried = {name: one for name, one in kept.items() if one is not None and name in header.volumes}
        if by_address:
            refused = ", ".join(by_address)
            raise FailedError(f"{label}: {MANIFEST}: {refused}: the server does not refer to it")
        if carried.keys() != set(header.volumes):
            raise FailedError(f"{label}: its volumes are not those of the server")
        return Package(header, server, image, carried, others)


class Adapted(Struct, frozen=True):
    """The objects to be made on this host: the `server`, `volumes` by their names in the archive, and what it
    refers to as far as it is `missing` here; and its image.
    """

    server: Object
    volumes: Mapping[str, Object]
    missing: tuple[Object, ...]
    image: Chosen

    @property
    def names(self) -> dict[str, str]:
        """{name of a volume in the archive: its name here}."""
        return {old: one.name for old, one in self.volumes.items()}


def adapt(
    instance: Instance, observed: Observed, package: Package, label: str, choice: Choice, report: Report
) -> Adapted:
    """What is made of an archive. Read-only.

    FailedError for names that are taken, without the image, and for a server that would reach the host unless
    it is trusted. UsageError for names of volumes that the archive does not have.
    """
    name = choice.name or package.header.server
    names = _names(package, choice)
    refuse_names(label, observed, name, names)
    image = choose(instance, package.server, package.image, package.header.image, choice.image, report)
    is_copy = package.server.name != name and package.server.name in observed.servers
    server = _server(package, name, names, image, report, is_copy=is_copy)
    missing = tuple(one for one in package.others if one.name not in recorded.observe(instance, one.kind))
    fetched = (image.fetched,) if image.fetched else ()
    if not choice.trusted:
        _refuse_untrusted(label, [server, *_used(instance, server), *missing, *fetched], names.values())
    carried = map(unprotected, package.volumes.values()) if is_copy else package.volumes.values()
    volumes = {one.name: replace(one, name=names[one.name]) for one in carried}
    return Adapted(server, volumes, (*fetched, *missing), image)


def _names(package: Package, choice: Choice) -> dict[str, str]:
    names = {old: choice.volumes.get(old, old) for old in package.volumes}
    if unknown := choice.volumes.keys() - names.keys():
        have = ", ".join(names) or "no volumes"
        raise UsageError(f"import --volume {min(unknown)}=…: the archive has {have}")
    for old in (names, *(dict(one.volumes) for one in package.header.snapshots)):  # or their files would mix
        if len({names.get(name, name) for name in old}) < len(old):
            raise UsageError("import --volume: two volumes would have the same name")
    return names


def refuse_names(label: str, observed: Observed, name: str, names: Mapping[str, str]) -> None:
    """FailedError if something has the name of the server, or of one of its volumes, {in archive: here}."""
    known = observed_volumes(observed)
    volumes = {old: new for old, new in names.items() if new in known}
    found = taken(observed, name)
    options = ["--name NAME"] * bool(found) + [f"--volume {old}=NAME" for old in volumes]
    found += [f"Volume/{new}" for new in volumes.values()]
    if found:
        exist = f"{', '.join(found)} {'exists' if len(found) == 1 else 'exist'}"
        raise FailedError(f"{label}: import: {exist}", hint=f"import under other names: {' '.join(options)}")


def _server(
    package: Package,
    name: str,
    names: Mapping[str, str],
    image: Chosen,
    report: Report,
    *,
    is_copy: bool,
) -> Object:
    """The server of the archive as it is here: stopped, with other names for itself and for its volumes;
    `is_copy` if the original is here, too.
    """
    found = copy_of(package.server, name, report) if is_copy else package.server
    spec = found.spec
    assert isinstance(spec, Server)
    hostname = name if spec.hostname == package.header.server else spec.hostname
    spec = replace(spec, state="Stopped", hostname=hostname, image=image.name)
    return replace(found, name=name, spec=with_volumes(spec, names))


def _used(instance: Instance, server: Object) -> Iterator[Object]:
    """The networks of this host that the server would be connected to, whatever the archive says of them."""
    assert isinstance(server.spec, Server)
    known = recorded.observe(instance, "Network")
    for name in dict.fromkeys(one.network for one in server.spec.interfaces):
        if (record := known.get(name)) is not None:
            if record.applied is None:
                raise FailedError(f"Network/{name}: {record.problem}")
            yield applied.object_of("Network", name, record.applied)


def _refuse_untrusted(label: str, objects: list[Object], carried: Iterable[str]) -> None:
    if found := trust.reasons(objects, carried):
        lines = "\n".join(f"  {line}" for line in found)
        raise FailedError(
            f"{label}: import: the server would reach this host:\n{lines}",
            hint="if you trust who has made the archive: --trust",
        )
