"""Saved plans, which `plan --out` writes and `apply` reads: JSON with the documents the plan was made from.

The mode is 0600, because documents may contain secrets.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable, Mapping
from typing import Any

from msgspec import Struct
from msgspec.structs import asdict, replace

from vsprov import __version__
from vsprov.engine.apply.converge import Proposal
from vsprov.engine.desired import inputs as manifest_inputs
from vsprov.engine.desired.inputs import Inputs
from vsprov.engine.desired.wanted import Desired
from vsprov.errors import StalePlanError, UsageError
from vsprov.manifest import load as manifests
from vsprov.manifest.load import Manifest
from vsprov.plan.builder import Wanted
from vsprov.plan.plan import FORMAT_VERSION, Change, PathChange, Plan, digest, to_document
from vsprov.store.instance import Instance

LARGEST = 256 << 20


def document(proposal: Proposal, manifest: Manifest, owner: str) -> dict[str, Any]:
    """The JSON document of a plan, as -o json prints it."""
    plan = replace(
        proposal.plan, inputs_digest=manifest.digest, observed_digest=digest(proposal.now.observed)
    )
    return to_document(
        plan,
        version=__version__,
        timestamp=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        host=os.uname().nodename,
        owner_set=owner,
    )


def recorded(proposal: Proposal, given: Inputs) -> dict[str, Any]:
    """What a saved plan contains in addition: all that is needed to make the plan again."""
    places = replace(
        given,
        paths=tuple(path if path == "-" else os.path.abspath(path) for path in given.paths),
        values=tuple(map(os.path.abspath, given.values)),
    )
    wanted = proposal.wanted
    options = {
        "instance": wanted.instance,
        "prune": wanted.prune,
        "volumes": wanted.volumes,
        "delete_data": sorted(wanted.delete_data),
        "selected": wanted.selected,
        "inputs": asdict(places),
    }
    return {
        "options": options,
        "shown": {
            change.key: {
                "paths": [[path.path, *path.shown] for path in change.paths],
                "steps": [step.describe() for step in change.steps],
            }
            for change in proposal.plan.objects
        },
        "documents": [manifests.document_of(one) for one in proposal.wanted.objects],
    }


class RecordedStep(Struct, frozen=True):
    """A step of a saved plan, as its plan describes it."""

    text: str

    def describe(self) -> str:
        """One line for -v."""
        return self.text


def as_plan(content: Mapping[str, Any]) -> Plan:
    """The plan that a saved one was made from, as far as it is shown. UsageError if the file is damaged."""
    try:
        return Plan(
            tuple(_change(each, content["shown"][each["address"]]) for each in content["resource_changes"]),
            notes={address: tuple(notes) for address, notes in content["notes"].items()},
            unchanged=tuple(content["unchanged"]),
            unlisted=tuple(content["unlisted"]),
        )
    except (LookupError, TypeError, AttributeError) as error:
        hint = "create it again: vsprov plan PATH --out FILE"
        raise UsageError(f"the saved plan cannot be shown: {error!r} is missing", hint=hint) from error


def _change(each: Mapping[str, Any], shown: Mapping[str, Any]) -> Change:
    actions = each["change"]["actions"]
    paths = tuple(
        PathChange(path, one["before"], one["after"], one["disruption"], (before, after))
        for one, (path, before, after) in zip(each["paths"], shown["paths"], strict=True)
    )
    steps: Any = tuple(map(RecordedStep, shown["steps"]))
    return Change(
        each["kind"],
        each["name"],
        "replace" if len(actions) > 1 else actions[0],
        each["disruption"],
        each["action_reason"],
        paths,
        each["change"]["before"],
        each["change"]["after"],
        steps,
        notes=tuple(each["notes"]),
    )


def write(path: str, made: Mapping[str, Any], inputs: Iterable[str] = ()) -> bool:
    """Write the plan to a file, completely or not at all; whether it can be read later.

    It replaces only a saved plan, and none of the files `inputs`, which it was made from. A device or pipe is
    written to. Raises UsageError and FailedError.
    """
    from vsprov.store.disk.output_file import write_output

    data = (json.dumps(made, indent=1) + "\n").encode()
    return write_output(path, data, "the plan", mode=0o600, replaces=is_plan, inputs=inputs)


class SavedPlan(Struct, frozen=True):
    """A plan that was read from a file. `known_images` are the images that its servers use."""

    path: str
    content: Mapping[str, Any]
    inputs: Inputs
    desired: Desired
    known_images: frozenset[str]


def is_plan(path: str) -> bool:
    """Whether the file is a saved plan: a JSON object with `format_version` near its start."""
    if not os.path.isfile(path):  # reading a pipe would block, and consume its content
        return False
    try:
        with open(path, "rb") as file:
            return file.read(1) == b"{" and b'"format_version"' in file.read(512)
    except OSError:
        return False


def read(path: str, instance: Instance) -> SavedPlan:
    """The plan in a file. Raises UsageError if it is not a plan, or is of another instance or version."""
    try:
        with open(path, encoding="utf-8") as file:
            content = json.loads(file.read(LARGEST))
        if content["format_version"] != FORMAT_VERSION:
            raise ValueError(f"of format {content['format_version']}")
        options, documents = content["options"], content["documents"]
        made_for = str(options["instance"])
        inputs = Inputs(**{key: _frozen(value) for key, value in options["inputs"].items()})
        prune, selected = bool(options["prune"]), bool(options.get("selected"))
        volumes, delete_data = bool(options.get("volumes")), frozenset(options.get("delete_data", ()))
        known = frozenset(name for one in documents if (name := one["spec"].get("image")))
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        hint = "create it again: vsprov plan PATH --out FILE"
        raise UsageError(f"{path}: not a plan saved by this version of vsprov: {error}", hint=hint) from error
    if made_for != instance.name:
        raise UsageError(f"{path}: the plan is for instance {made_for}, not {instance.name}")
    manifest = manifests.load_documents(documents, known_images=known)
    name = str(content["set"])
    owner = f"{instance.name}/{name}"
    wanted = Wanted(
        instance.name, owner, manifest.objects, prune=prune, selected=selected,
        volumes=volumes, delete_data=delete_data,
    )  # fmt: skip
    return SavedPlan(path, content, inputs, Desired(manifest, name, wanted), known)


def _frozen(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def refuse_changed_inputs(plan: SavedPlan) -> None:
    """Raise StalePlanError if the manifest has changed; a manifest that no longer exists is not compared."""
    given = plan.inputs
    if any(path == "-" or not os.path.exists(path) for path in (*given.paths, *given.values)):
        return
    now = manifest_inputs.read_with_images(given, plan.known_images)
    if now.digest != plan.content["inputs_digest"]:
        raise _stale(plan, f"the manifest has changed ({', '.join(given.paths)})")


def refuse_changed_world(plan: SavedPlan, proposal: Proposal) -> None:
    """Raise StalePlanError if the state of the host, or the plan that follows from it, has changed."""
    if digest(proposal.now.observed) != plan.content["observed_digest"]:
        raise _stale(plan, "the servers, images or quotas of this host have changed")
    made = to_document(proposal.plan, version="", timestamp="", host="", owner_set="")
    if json.loads(json.dumps(made["resource_changes"], default=dict)) != plan.content["resource_changes"]:
        raise _stale(plan, "the source of an image, or this host, has changed")


def _stale(plan: SavedPlan, why: str) -> StalePlanError:
    return StalePlanError(
        f"{plan.path}: the saved plan is stale: {why}", hint="create a new plan and review it"
    )
