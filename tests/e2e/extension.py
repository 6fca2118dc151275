"""vsprov with a kind and a live key that it does not have, each registered as CONTRIBUTING says.

`kind: Note` keeps a text in the state root. `oomScoreAdj` of a server is that of its init (proc(5),
/proc/PID/oom_score_adj). Run as a program it is the command line with both.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Mapping
from typing import Any

from msgspec import Struct

from vsprov.cli import main
from vsprov.engine.apply.register import carries_out
from vsprov.engine.aspects.observer import RunningServer, observes
from vsprov.engine.kinds.view import KindView, View
from vsprov.engine.kinds.view import register as register_view
from vsprov.engine.run.context import ApplyContext
from vsprov.kernel.cgroup import Hierarchies
from vsprov.model import fields
from vsprov.model.fields import Section, value
from vsprov.model.kinds.server import Server
from vsprov.model.objects import KINDS, ObjectKind
from vsprov.plan.aspects.aspect import Aspect, Difference, Running
from vsprov.plan.aspects.aspect import register as register_aspect
from vsprov.plan.builder import PlanBuilder
from vsprov.plan.kinds.planner import KindPlanner, Shown
from vsprov.plan.kinds.planner import register as register_planner
from vsprov.plan.observed import set_of
from vsprov.plan.plan import Change, change, removal
from vsprov.plan.steps import Step
from vsprov.render.tables import TABLES, KindTable
from vsprov.store.instance import Instance

# -- a kind


class Note(Section):
    text: str = value(doc="What to keep in mind.", schema={"maxLength": 100})


class ObservedNote(Struct, frozen=True):
    owner: str
    text: str


class WriteNote(Step, frozen=True):
    name: str
    owner: str
    text: str

    def describe(self) -> str:
        return f"write note {self.name}"


class RemoveNote(Step, frozen=True):
    name: str

    def describe(self) -> str:
        return f"remove note {self.name}"


def plan(builder: PlanBuilder) -> None:
    for want in builder.of("Note").values():
        seen: ObservedNote | None = builder.observed.more["Note"].get(want.name)
        if seen and builder.refuse_foreign(want.address, seen.owner, f"note {want.name}"):
            continue
        spec = fields.write(want.spec)
        before = {"text": seen.text} if seen else None
        steps = (WriteNote(want.name, builder.wanted.owner, spec["text"]),)
        if seen is None:
            made = Change("Note", want.name, "create", "none", "missing", (), None, spec, steps)
        elif before != spec:
            paths = (change("spec.text", seen.text, spec["text"], "none"),)
            made = Change("Note", want.name, "update", "none", "changed", paths, before, spec, steps)
        builder.add(want.address, None if before == spec else made)


def remove(builder: PlanBuilder, name: str) -> Change:
    text = builder.observed.more["Note"][name].text
    return removal("Note", name, (RemoveNote(name),), {"text": text})


def show(name: str, shown: Shown, ignore: frozenset[str]) -> dict[str, Any]:
    return {"text": shown.observed.more["Note"][name].text}


def folder(instance: Instance) -> str:
    return f"{instance.root}/notes"


def observe(instance: Instance, hierarchies: Hierarchies) -> dict[str, ObservedNote]:
    names = os.listdir(folder(instance)) if os.path.isdir(folder(instance)) else []
    found = {}
    for name in names:
        with open(f"{folder(instance)}/{name}") as file:
            owner, _, text = file.read().partition("\n")
        found[name] = ObservedNote(owner, text)
    return found


def status(name: str, view: View) -> dict[str, Any]:
    return {"set": set_of(view.shown.observed.more["Note"][name].owner)}


@carries_out(WriteNote)
def write_note(context: ApplyContext, step: WriteNote) -> None:
    os.makedirs(folder(context.instance), exist_ok=True)
    with open(f"{folder(context.instance)}/{step.name}", "w") as file:
        file.write(f"{step.owner}\n{step.text}")


@carries_out(RemoveNote)
def remove_note(context: ApplyContext, step: RemoveNote) -> None:
    os.unlink(f"{folder(context.instance)}/{step.name}")
    with contextlib.suppress(OSError):  # others are left in it
        os.rmdir(folder(context.instance))


def row(document: Mapping[str, Any], wide: bool) -> tuple[str, ...]:
    return document["metadata"]["name"], document["spec"]["text"]


KINDS["Note"] = ObjectKind("Note", Note, "A text to keep in mind.")
register_planner(
    KindPlanner(
        "Note",
        observed=lambda observed: observed.more["Note"],
        owners=lambda note: (note.owner,),
        plan=plan,
        remove=remove,
        show=show,
    )
)
register_view(KindView("Note", status, observe=observe))
TABLES["Note"] = KindTable(("NAME", "TEXT"), (), row)


# -- a live key


class ServerWithScore(Server):
    oom_score_adj: int = value(
        0, doc="Preference of the OOM killer.", schema={"minimum": 0, "maximum": 1000}, cost="live"
    )


class SetScore(Step, frozen=True):
    server: str
    score: int
    before: int

    def describe(self) -> str:
        return f"set the OOM score of {self.server} to {self.score}"

    def undo(self) -> Step:
        return SetScore(self.server, self.before, self.score)


def compare(it: Running) -> Iterable[Difference]:
    assert isinstance(it.spec, ServerWithScore)
    if it.seen != it.spec.oom_score_adj:
        path = change("spec.oomScoreAdj", it.seen, it.spec.oom_score_adj, "live")
        yield Difference(path, SetScore(it.name, it.spec.oom_score_adj, it.seen))


@observes("score")
def observe_score(server: RunningServer) -> int:
    with open(f"/proc/{server.pid}/oom_score_adj") as file:
        return int(file.read())


@carries_out(SetScore)
def set_score(context: ApplyContext, step: SetScore) -> None:
    with open(f"/proc/{context.inits[step.server].pid}/oom_score_adj", "w") as file:
        file.write(str(step.score))


KINDS["Server"] = ObjectKind("Server", ServerWithScore, KINDS["Server"].doc, costs=True)
register_aspect(
    Aspect("score", ("oomScoreAdj",), compare, lambda spec, seen, ignore: {**spec, "oomScoreAdj": seen})
)


if __name__ == "__main__":
    main()
