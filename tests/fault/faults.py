"""Applies that go wrong on purpose, in a process of their own, and what an instance has on this machine."""

from __future__ import annotations

import errno
import functools
import gc
import os
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests import leaks, preloaded, world
from tests.lab import Document, Lab
from vsprov.engine.apply import carry_out, command, execute
from vsprov.engine.apply.report import Silent
from vsprov.engine.look import situation
from vsprov.engine.run.context import ApplyContext
from vsprov.engine.run.schedule import Work
from vsprov.engine.work import WorkOptions
from vsprov.errors import VsprovError
from vsprov.manifest.load import load_documents
from vsprov.model.objects import Object
from vsprov.plan.builder import Wanted
from vsprov.plan.steps import Step
from vsprov.store.instance import Instance

KILLED = -9


@functools.cache
def everything_loaded() -> None:
    """Import all that an apply imports, so that not every child does, which takes as long as the rest."""
    preloaded.load()


@dataclass(frozen=True, slots=True)
class Apply:
    """An apply of documents, or with `remove` the removal of what they describe; run by fork, so that many
    of them take little time.
    """

    lab: Lab
    documents: tuple[Document, ...]
    remove: bool = False

    def run(self, prepare: Callable[[], None] = lambda: None) -> int:
        """Do it in a child; 0 when all went well, 1 when something failed, -9 when the child was killed.

        `prepare` runs in the child before.
        """
        everything_loaded()
        objects = () if self.remove else load_documents(list(self.documents)).objects
        sys.stdout.flush()
        sys.stderr.flush()
        pid = os.fork()
        if pid == 0:
            gc.freeze()  # the collector would copy every page it looks at
            gc.set_threshold(100_000)  # as the program does
            code = 2
            try:
                if self.lab.vsprov.network is not None:
                    world.enter(self.lab.vsprov.network)
                prepare()
                code = self.here(objects)
            except VsprovError as error:
                print(error, file=sys.stderr)
                code = error.exit_code
            except BaseException:
                traceback.print_exc()
            finally:
                sys.stderr.flush()
                os._exit(code)
        ended = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        assert ended in (0, 1, KILLED), ended
        return ended

    def here(self, objects: tuple[Object, ...]) -> int:
        """Do it in this process; 0 when all went well, 1 when something failed."""
        instance = Instance(self.lab.vsprov.name, str(self.lab.vsprov.root))
        owner = f"{instance.name}/default"
        if self.remove:
            # as `destroy`: what there is of it
            observed = situation.look(instance).observed
            there = {f"Server/{name}" for name in observed.servers}
            there |= {f"Quota/{name}" for name in observed.all_pools} | {
                f"Image/{name}" for name in observed.images
            }
            there |= {f"Network/{name}" for name in (observed.networks.networks if observed.networks else ())}
            volumes = frozenset(observed.more.get("Volume", ()))
            there |= {f"Volume/{name}" for name in volumes}
            named = {f"{each['kind']}/{each['metadata']['name']}" for each in self.documents}
            wanted = Wanted(instance.name, owner, remove=frozenset(there & named), delete_data=volumes)
        else:
            wanted = Wanted(instance.name, owner, objects)
        outcome = command.apply(instance, wanted, Silent(), work=WorkOptions(settle=0))
        for error in outcome.errors.values():
            print(error, file=sys.stderr)
        if outcome.errors:
            return 1
        if outcome.left is not None and not outcome.left.empty:
            print(f"left: {outcome.left}", file=sys.stderr)
            return 1
        return 0

    def dies_after(self, steps: int) -> bool:
        """Do it in a child that dies, as in a power cut, after so many steps; False when it ended before."""

        def prepare() -> None:
            os.environ[carry_out.FAIL_AFTER] = str(steps)

        ended = self.run(prepare)
        assert ended in (0, KILLED), (ended, steps)
        return ended == KILLED

    def loses_its_spawner_after(self, steps: int) -> bool:
        """Do it in a child whose spawner is killed after so many steps; False when there were fewer."""
        left = steps

        def count(context: ApplyContext, step: Step) -> str:
            nonlocal left
            left -= 1
            if left == 0 and context.spawner:
                os.kill(context.spawner.pid, 9)
            return "killed" if left == 0 else ""

        return self.told(count, (0, 1)) == ["killed"]

    def steps(self) -> list[str]:
        """Do it to its end; what sort of step was done, for each in their order."""
        return self.told(lambda _, step: sort(step))

    def told(self, look: Callable[[ApplyContext, Step], str], codes: tuple[int, ...] = (0,)) -> list[str]:
        """Do it in a child which calls `look` after each step; what that said, but for empty words."""
        told, tell = os.pipe()

        def prepare() -> None:
            do = execute.do

            def do_and_look(context: ApplyContext, step: Step) -> Work:
                yield from do(context, step)
                if line := look(context, step):
                    os.write(tell, f"{line}\n".encode())

            execute.do = do_and_look

        with open(told) as lines:
            try:
                assert self.run(prepare) in codes
            finally:
                os.close(tell)
            return lines.read().splitlines()


def sort(step: Step) -> str:
    """What tells apart the steps after which different things are there."""
    words = {name: getattr(step, name, "") for name in ("controller", "hierarchy", "file")}
    return " ".join([type(step).__name__, *filter(None, words.values())])


def footprint(lab: Lab) -> list[str]:
    """A line for each thing the instance has on this machine, and how many processes and loop devices."""
    found = leaks.found(lab.vsprov.name, lab.vsprov.folder, lab.vsprov.network)
    if lab.vsprov.network is not None:
        snapshot = world.snapshot(lab.vsprov.network)
        found += [f"{words}: {line}" for words, text in snapshot.items() for line in text.splitlines()]
    processes = [line for line in found if line.startswith("process ")]
    loops = [line for line in found if line.startswith("loop device ")]  # any of those that are free
    counts = [f"{len(loops)} loop devices", f"{len(processes)} processes"]
    return sorted({*found} - {*processes, *loops}) + counts


def fill(folder: Path, free: int) -> Path:
    """Leave only so many bytes free on the disk of this folder."""
    ballast = folder / "ballast"
    stat = os.statvfs(folder)
    at, wanted = 0, max(stat.f_bavail * stat.f_bsize - free, stat.f_bsize)
    part = wanted
    with open(ballast, "wb") as file:
        while at < wanted and part >= stat.f_bsize:
            try:
                os.posix_fallocate(file.fileno(), at, min(part, wanted - at))
                at += min(part, wanted - at)
            except OSError as error:  # the file's own extents may take a block, too
                assert error.errno == errno.ENOSPC
                part //= 2
    return ballast
