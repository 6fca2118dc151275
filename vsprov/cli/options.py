"""Options that several verbs share, as decorators, and what their values mean."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from functools import wraps
from typing import TYPE_CHECKING, Any

import click
from msgspec.structs import replace

from vsprov.cli import complete, complete_paths
from vsprov.engine.work import WorkOptions
from vsprov.errors import UsageError

if TYPE_CHECKING:
    from vsprov.engine.desired.inputs import Inputs

Function = Callable[..., None]


def manifest_inputs(function: Function) -> Function:
    """Add the options that name manifests; the verb gets them as `inputs`, an `Inputs`."""

    @click.argument(
        "paths",
        nargs=-1,
        metavar="[PATH...]",
        help="Manifest files or directories; - for standard input.",
        shell_complete=complete_paths.files,
    )
    @click.option(
        "--filename",
        "-f",
        "files",
        metavar="PATH",
        multiple=True,
        help="The same as PATH; may be repeated.",
        shell_complete=complete_paths.files,
    )
    @click.option("--recursive", "-R", is_flag=True, help="Read directories recursively.")
    @click.option("--template", is_flag=True, help="Render every file with Jinja2, not only *.j2.")
    @click.option(
        "--values",
        metavar="FILE",
        multiple=True,
        help="YAML file of template values; may be repeated.",
        shell_complete=complete_paths.files,
    )
    @click.option(
        "--set",
        "sets",
        metavar="KEY=VALUE",
        multiple=True,
        help="Template value, such as a.b=c; may be repeated. Not related to --set-name.",
    )
    @wraps(function)
    def call(
        paths: tuple[str, ...],
        files: tuple[str, ...],
        recursive: bool,
        template: bool,
        values: tuple[str, ...],
        sets: tuple[str, ...],
        **rest: Any,
    ) -> None:
        from vsprov.engine.desired.inputs import Inputs

        function(inputs=Inputs((*files, *paths), recursive, template, values, sets), **rest)

    return call


def require_paths(verb: str, inputs: Inputs) -> None:
    """Raise UsageError when no manifest was given."""
    if not inputs.paths:
        raise UsageError(
            f"{verb}: no manifest given", hint="specify files or directories, or - for standard input"
        )


_lock_timeout = click.option(
    "--lock-timeout",
    metavar="TIME",
    default="0s",
    show_default=True,
    help="How long to wait for another command to finish, such as 30s or 2m. 0: do not wait.",
)


def lock_option(function: Function) -> Function:
    """Add the option --lock-timeout; the verb gets it as part of `work`, a `WorkOptions`."""

    @_lock_timeout
    @wraps(function)
    def call(lock_timeout: str, **rest: Any) -> None:
        seconds = duration(lock_timeout, "--lock-timeout") / 1_000_000
        function(work=WorkOptions(lock_timeout=seconds), **rest)

    return call


def work_options(function: Function) -> Function:
    """Add the options of verbs that change things; the verb gets them as `work`, a `WorkOptions`."""

    @click.option(
        "--parallelism",
        metavar="N",
        default="32",
        show_default=True,
        help="Maximum number of objects changed at the same time.",
    )
    @_lock_timeout
    @wraps(function)
    def call(parallelism: str, lock_timeout: str, **rest: Any) -> None:
        if not (parallelism.isascii() and parallelism.isdigit() and 1 <= int(parallelism) <= 1024):
            raise UsageError(f"--parallelism {parallelism}: not a number between 1 and 1024")
        seconds = duration(lock_timeout, "--lock-timeout") / 1_000_000
        function(work=WorkOptions(int(parallelism), seconds), **rest)

    return call


def settle_option(function: Function) -> Function:
    """Add the option --settle, which becomes part of `work`; `work_options` has to be above it."""

    @click.option(
        "--settle",
        metavar="TIME",
        help="How long to watch started servers. If the command of one ends meanwhile, the start has failed, "
        "unless init.oneshot is set and the exit code is 0. 0: do not watch. "
        "[env: VSPROV_SETTLE; default: 250ms]",
    )
    @wraps(function)
    def call(settle: str | None, work: WorkOptions, **rest: Any) -> None:
        given = settle or os.environ.get("VSPROV_SETTLE") or "250ms"
        seconds = duration(given, "--settle") / 1_000_000
        function(work=replace(work, settle=seconds), **rest)

    return call


def wait_option(function: Function) -> Function:
    """Add --wait and --wait-timeout, which become part of `work`; `work_options` has to be above."""

    @click.option("--wait", is_flag=True, help="Wait until the servers are ready, see `readiness`.")
    @_wait_timeout(
        "How long --wait waits at most, and how long a server waits for a condition of `dependsOn`."
    )
    @wraps(function)
    def call(wait: bool, work: WorkOptions, **rest: Any) -> None:
        function(work=replace(work, wait=wait), **rest)

    return call


def condition_option(function: Function) -> Function:
    """Add --wait-timeout alone, for conditions of dependencies; `work_options` has to be above."""
    return _wait_timeout("How long a server waits at most for a condition of `dependsOn`.")(function)


def _wait_timeout(text: str) -> Callable[[Function], Function]:
    def add(function: Function) -> Function:
        @click.option(
            "--wait-timeout", metavar="TIME", default="5m", show_default=True, help=f"{text} 0: do not wait."
        )
        @wraps(function)
        def call(wait_timeout: str, work: WorkOptions, **rest: Any) -> None:
            seconds = duration(wait_timeout, "--wait-timeout") / 1_000_000
            function(work=replace(work, wait_timeout=seconds), **rest)

        return call

    return add


set_name_option = click.option(
    "--set-name",
    metavar="NAME",
    help="Set that the objects belong to. Objects of other sets are refused, and --prune removes only "
    "objects of this set. [default: `set` in the vsprov.yaml beside or above the "
    "manifest, or else default]",
)
selector_option = click.option(
    "--selector",
    "-l",
    "labels",
    metavar="LABELS",
    help="Label selector, such as tier=web,env!=dev: only matching servers, and the images and quotas they "
    "use.",
)
server_selector_option = click.option(
    "--selector",
    "-l",
    "labels",
    metavar="LABELS",
    help="Label selector, such as tier=web,env!=dev: only matching servers.",
)
locked_option = click.option(
    "--locked", "must_be_locked", is_flag=True, help="Refuse tags that have no digest in vsprov.lock.yaml."
)
prune_option = click.option(
    "--prune", is_flag=True, help="Also remove objects of this set that are not in the manifest."
)


def volume_options(function: Function) -> Function:
    """Add the options that let volumes be removed; the verb gets them as `volumes`, a `Volumes`."""

    @click.option(
        "--volumes",
        "empty",
        is_flag=True,
        help="Also remove volumes, which are kept otherwise. --delete-data must name those that have data.",
    )
    @click.option(
        "--delete-data",
        "names",
        metavar="VOLUME",
        multiple=True,
        help="Also remove this volume with all of its data; may be repeated.",
        shell_complete=complete.volumes,
    )
    @wraps(function)
    def call(empty: bool, names: tuple[str, ...], **rest: Any) -> None:
        from vsprov.engine.desired.wanted import Volumes

        function(volumes=Volumes(empty, frozenset(names)), **rest)

    return call


allow_empty_option = click.option(
    "--allow-empty",
    is_flag=True,
    help="Accept a manifest without objects. With --prune it removes all objects of the set.",
)
detailed_exitcode_option = click.option(
    "--detailed-exitcode",
    is_flag=True,
    help="Exit with 2 if there are changes, and with 0 if there are none.",
)
yes_option = click.option(
    "--yes",
    "-y",
    is_flag=True,
    help="Do not ask for confirmation. Required when standard input is not a terminal.",
)


def variables(given: Iterable[str]) -> dict[str, str]:
    """The environment variables that --env gives. Raises UsageError."""
    out = {}
    for item in given:
        key, equals, value = item.partition("=")
        if not key or not equals or "\0" in item:
            raise UsageError(f"--env {item!r}: not a variable", hint="use the form KEY=VALUE")
        out[key] = value
    return out


def server_name(given: str) -> str:
    """The name in `web1`, or in `Server/web1` as messages and `get -o name` have it."""
    kind, _, name = given.rpartition("/")
    return name if kind.lower() in ("server", "servers") else given


def duration(given: str, option: str) -> int:
    """Microseconds in an option's value, which may be a plain 0. Raises UsageError."""
    from vsprov.model.values import units

    try:
        return 0 if given == "0" else units.parse_duration(given)
    except units.UnitError as error:
        raise UsageError(f"{option}: {error}", hint=error.hint) from error
