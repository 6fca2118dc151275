"""Resources: as a tree in manifests, {memory: {max: 512Mi}}, and by knob, {"memory.max": 536870912}."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Unpack

from vsprov.model.fields import Declared, Path, Report, fail
from vsprov.model.limits.knobs import BY_PATH
from vsprov.model.values.units import UnitError

if TYPE_CHECKING:
    from vsprov.model.fields import Traits


def read_resources(raw: Mapping[str, Any], report: Report = fail, at: Path = ()) -> dict[str, Any]:
    """{knob path: value} of a tree that passed the schema; `report` as in `fields.read`."""
    out: dict[str, Any] = {}
    for group, keys in raw.items():
        if group.startswith("x-"):
            continue
        for key, given in keys.items():
            knob = BY_PATH.get(f"{group}.{key}")
            if knob is None or given is None:  # `x-` keys
                continue
            try:
                out[knob.path] = knob.kind.parse(given)
            except UnitError as error:
                report((*at, group, key), error)
    return out


def write_resources(resources: Mapping[str, Any]) -> dict[str, Any]:
    """The tree that `read_resources` turns back into `resources`."""
    out: dict[str, Any] = {}
    for path, current in resources.items():
        group, key = path.split(".", 1)
        out.setdefault(group, {})[key] = BY_PATH[path].kind.dump(current)
    return out


def knobs(*, doc: str, inline: bool = False, **traits: Unpack[Traits]) -> Any:
    """A field with values of knobs, {} by default. `inline`: the groups are siblings of the other keys."""
    about = {"doc": doc, "read": read_resources, "dump": write_resources, "inline": inline, **traits}
    return Declared({}, about)
