"""Documents of observed and wanted objects, with values rounded as the kernel rounds them, for `diff`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from msgspec import Struct

from vsprov.engine.show import documents
from vsprov.engine.show.documents import SituationWithWeights
from vsprov.manifest.load import document_of
from vsprov.model.kinds.quota import Quota
from vsprov.model.objects import Object
from vsprov.plan.kinds.planner import PLANNERS
from vsprov.plan.limits import resources
from vsprov.store.instance import Instance


class DocumentPair(Struct, frozen=True):
    """The observed document of an object, None if it does not exist, and the wanted one.

    `before` is the address that it was observed with: another one for a server that is to be renamed.
    """

    before: str
    address: str
    observed: dict[str, Any] | None
    wanted: dict[str, Any]


def compare(instance: Instance, objects: Sequence[Object]) -> list[DocumentPair]:
    """A comparison for each object, including objects without differences."""
    now = documents.look(instance, objects)
    return [
        _pair(one, now)
        for one in objects
        # Quotas of this scope are part of the servers that refer to them.
        if not (isinstance(one.spec, Quota) and one.spec.scope == "server")
    ]


def _pair(one: Object, now: SituationWithWeights) -> DocumentPair:
    name, wanted = _present_name(one, now), document_of(one)
    observed = _observed(one, name, now)
    wanted["metadata"].pop("renamedFrom", None)  # not a property: the names are compared
    if observed is not None:
        wanted["spec"] = PLANNERS[one.kind].comparable(one, observed["spec"])
    return DocumentPair(f"{one.kind}/{name}", one.address, observed, _rounded(wanted, now))


def _present_name(one: Object, now: SituationWithWeights) -> str:
    """The name that the object has now: the one before, if it is to be renamed."""
    old = one.renamed_from
    known = documents.names(one.kind, now) if old is not None else ()
    return old if old is not None and old in known and one.name not in known else one.name


def _observed(one: Object, name: str, now: SituationWithWeights) -> dict[str, Any] | None:
    if name not in documents.names(one.kind, now):
        return None
    document = documents.document(one.kind, name, now, resources.ignored(one))
    # Labels and annotations are only recorded for servers.
    metadata = document["metadata"] if one.kind == "Server" else document_of(one)["metadata"]
    return _rounded({**document, "metadata": metadata}, now)


def _rounded(document: dict[str, Any], now: SituationWithWeights) -> dict[str, Any]:
    kind, spec = document["kind"], document["spec"]
    readable = PLANNERS[kind].readable(PLANNERS[kind].rounded(spec, now.machine))
    return {key: document[key] for key in ("apiVersion", "kind", "metadata")} | {"spec": readable}
