"""The root file system of a server, running or stopped."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from typing import Any

from msgspec import Struct

from vsprov.engine.apply.exclusive import exclusive
from vsprov.engine.apply.report import Report
from vsprov.engine.guests import host_sources, request
from vsprov.engine.guests.commands import foreground, join
from vsprov.engine.images import builds
from vsprov.engine.look import situation
from vsprov.engine.look.situation import Situation
from vsprov.engine.run import intent, outcome
from vsprov.engine.run.context import ApplyContext
from vsprov.engine.run.spawn import SECONDS_TO_ANSWER
from vsprov.engine.servers.record import record_of
from vsprov.engine.work import WorkOptions
from vsprov.errors import FailedError
from vsprov.kernel import process, syscall
from vsprov.plan.builder import EVERY_SET
from vsprov.plan.compare import applied
from vsprov.plan.observed import ObservedServer, Process
from vsprov.store.instance import Instance
from vsprov.store.written.copies import ServerRoot


class OpenRoot(Struct, frozen=True):
    """The open root of a server; `check` raises FailedError if the server has ended meanwhile."""

    server: ServerRoot
    check: Callable[[], None]


@contextmanager
def opened(instance: Instance, name: str, report: Report, work: WorkOptions) -> Iterator[OpenRoot]:
    """Open the root of a server. A stopped one is prepared as for a start, without starting it, and cannot be
    started before the end of the block. FailedError if there is no such server.
    """
    process.require_root("copying files of servers")
    found = join.find(instance, name)[2]
    if found.init is not None:
        with _of_process(name, found.init) as root:
            yield root
        return
    with exclusive(instance, work, report):
        now = situation.look(instance)
        seen = now.observed.servers.get(name)
        if seen is None or seen.init or seen.populated:
            raise FailedError(f"Server/{name}: was started or removed meanwhile", hint="try again")
        with _prepared(instance, now, seen, report) as init, _of_process(name, init) as root:
            yield root


@contextmanager
def _of_process(name: str, init: Process) -> Iterator[OpenRoot]:
    with ExitStack() as held:
        pidfd = process.open_pidfd(init.pid, init.start)
        if pidfd is None:
            raise foreground.ended(name)
        held.callback(os.close, pidfd)

        def check() -> None:
            if syscall.is_ready(pidfd, 0):
                raise foreground.ended(name)

        try:
            root = os.open(f"/proc/{init.pid}/root", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            held.callback(os.close, root)
            userns = os.open(f"/proc/{init.pid}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
            held.callback(os.close, userns)
        except (FileNotFoundError, ProcessLookupError):
            raise foreground.ended(name) from None
        check()  # if it runs, both are of this very process
        yield OpenRoot(ServerRoot(name, root, userns), check)


@contextmanager
def _prepared(instance: Instance, now: Situation, seen: ObservedServer, report: Report) -> Iterator[Process]:
    """The first process of a stopped server, which waits at its gate and never starts.

    Its control group is one like those of builds, so that the next apply ends what a crash leaves.
    """
    record, base = record_of(seen), seen.id_base or 0
    server = applied.to_object(seen.name, record)
    context = ApplyContext(
        instance,
        now.hierarchies,
        now.machine,
        now.observed,
        f"{instance.name}/{EVERY_SET}",
        {server.address: server},
        notice=report.notice,
        pinned={seen.name: record["image"]},
    )
    with closing(context), ExitStack() as held:
        spawner = context.start_spawner()
        home = builds.make(context, seen.name, base, "copy")
        held.callback(builds.end, context, home)
        name = f"{instance.name}/{os.path.basename(home)}"
        sources = held.enter_context(host_sources.opening())
        sources.attach_disk(f"{instance.servers}/{seen.name}", base)
        guest = request.for_server(context, server, name, sources)
        guest["own_memory"] = True
        spawner.request(guest)
        event = _answer(seen.name, spawner)
        sources.mounted()
        yield Process(event["pid"], event["start"])
    intent.forget(instance)


def _answer(name: str, spawner: Any) -> Any:
    while True:
        if not syscall.is_ready(spawner.fileno(), SECONDS_TO_ANSWER):
            raise spawner.give_up(SECONDS_TO_ANSWER)
        for event in spawner.events():
            if event["event"] == "failed":
                raise FailedError(f"Server/{name}: {outcome.explain(event)}", hint=outcome.hint(event))
            if event["event"] == "ready":
                return event
