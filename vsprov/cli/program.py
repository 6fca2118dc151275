"""The verbs, found by name and loaded when they are called."""

from __future__ import annotations

from importlib import import_module
from inspect import cleandoc
from typing import Any

import click

from vsprov.cli import shells
from vsprov.cli.verb import CONTEXT, SETTINGS, Verb
from vsprov.errors import UsageError

# Verb: (module and function, summary), in the order of --help.
VERBS = {
    "init": ("init:init", "Create an infrastructure repository."),
    "validate": ("manifest:validate", "Check manifests for errors; does not need root."),
    "render": ("manifest:render", "Print manifests with templates rendered and defaults filled in."),
    "schema": ("manifest:schema", "Print the JSON Schema of a kind."),
    "explain": ("explain:explain", "Describe a key of a manifest."),
    "plan": ("plan:plan", "Show what apply would change, and what each change costs."),
    "show": ("plan:show", "Print a saved plan."),
    "diff": ("plan:diff", "Show a unified diff between the current state and the manifest."),
    "apply": ("apply:apply", "Create and change objects to match the manifest."),
    "destroy": ("destroy:destroy", "Remove the objects of a manifest, or all objects."),
    "delete": ("destroy:delete", "Remove single objects."),
    "get": ("get:get", "Show servers, images, quotas, networks and volumes."),
    "describe": ("describe:describe", "Show everything about an object."),
    "start": ("servers.lifecycle:start", "Start stopped servers."),
    "stop": ("servers.lifecycle:stop", "Stop servers and keep their files."),
    "restart": ("servers.lifecycle:restart", "Stop servers and start them again."),
    "wait": ("servers.wait:wait", "Wait until servers are in a state."),
    "freeze": ("servers.signals:freeze", "Stop the processes of servers from running."),
    "thaw": ("servers.signals:thaw", "Continue frozen servers."),
    "kill": ("servers.signals:kill", "Send a signal to servers."),
    "boot": ("servers.boot:boot", "Start the servers that start with the host."),
    "shutdown": ("servers.boot:shutdown", "Stop all servers before the host shuts down."),
    "rename": ("servers.rename:rename", "Give a server another name."),
    "exec": ("servers.exec:execute", "Run a command in a running server."),
    "shell": ("servers.exec:shell", "Open a shell in a running server."),
    "cp": ("files.cp:cp", "Copy files between the host and a server."),
    "changes": ("files.changes:changes", "List the files that a server has changed."),
    "clone": ("files.clone:clone", "Make a copy of a server."),
    "commit": ("images.commit:commit", "Make an image of a server and what it has written."),
    "snapshot create": ("files.snapshot:create", "Save what a server has written."),
    "snapshot ls": ("files.snapshot:ls", "List snapshots."),
    "snapshot restore": ("files.snapshot:restore", "Bring back what a server had written."),
    "snapshot rm": ("files.snapshot:rm", "Remove snapshots."),
    "export": ("files.transfer:export", "Write a server to an archive."),
    "import": ("files.transfer:import_server", "Make a server of an archive."),
    "logs": ("servers.logs:logs", "Print the output of servers."),
    "image ls": ("images.store:ls", "List images, their sizes and the servers that use them."),
    "image pull": ("images.pull:pull", "Download or rebuild images from their sources."),
    "image rm": ("images.store:rm", "Remove unused images."),
    "image prune": ("images.store:prune", "Remove unused layers and downloads."),
    "image verify": ("images.store:verify", "Check the files of images for damage."),
    "image dedupe": ("images.store:dedupe", "Share identical files between layers."),
    "image lock": ("images.pull:lock", "Record the digests of image tags in vsprov.lock.yaml."),
    "ps": ("servers.ps:ps", "List the processes of servers."),
    "doctor": ("doctor:doctor", "Check whether this host can run servers."),
    "keeper status": ("keeper:status", "Show what the keeper does."),
    "keeper run": ("keeper:run", "Start the keeper, and again when it dies."),
    "keeper act": ("keeper:act", "Do what is due; the keeper runs this."),
    "help": ("help:show_help", "Print the help of a verb."),
    "version": ("version:version", "Print the version."),
}

GROUPS = {
    "image": "Manage images.",
    "snapshot": "Save and restore the files of servers.",
    "keeper": "Show the process that watches servers.",
}

GETTING_STARTED = "  vsprov init demo && cd demo\n  vsprov plan servers\n  vsprov apply servers"


class Group(click.Group):
    """Verbs in the order of `VERBS`; without a verb it prints its help as a usage error."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if not args and not ctx.resilient_parsing:
            raise click.UsageError("", ctx)
        return super().parse_args(ctx, args)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        try:
            return super().resolve_command(ctx, args)
        except click.NoSuchCommand as error:
            from vsprov.cli.foreign_verbs import INSTEAD

            words = f"{ctx.command_path} {error.command_name}".partition(" ")[2]
            if words not in INSTEAD:
                raise
            hint = ", or ".join(f"vsprov {line}" for line in INSTEAD[words])
            raise UsageError(f"no such command '{words}'", hint=hint) from None


class Named(click.Command):
    """A verb that is only a name and a summary yet: listing and completing verbs does not load them."""

    def __init__(self, name: str) -> None:
        super().__init__(name.rpartition(" ")[2], help=VERBS[name][1])
        self.verb = name

    def make_context(
        self, info_name: str | None, args: list[str], parent: click.Context | None = None, **extra: Any
    ) -> click.Context:
        return load(self.verb).make_context(info_name, args, parent=parent, **extra)


def load(name: str) -> Verb:
    """The verb with its options and its function."""
    place, summary = VERBS[name]
    module, _, function = place.partition(":")
    verb: Verb = getattr(import_module(f"vsprov.cli.verbs.{module}"), function)
    verb.name = name.rpartition(" ")[2]
    verb.help = f"{summary}\n\n{cleandoc(verb.callback.__doc__ or '')}"
    return verb


def program() -> click.Group:
    """The whole command line."""
    return Group(
        name="vsprov",
        commands=_commands(""),
        params=[*SETTINGS, *shells.OPTIONS],
        help="vsprov: virtual servers on a shared kernel, from YAML manifests.\n\n"
        "Run `vsprov VERB --help` for the options of a verb and examples.",
        epilog=f"\b\nGetting started:\n{GETTING_STARTED}",
        context_settings=CONTEXT,
    )


def _commands(prefix: str) -> dict[str, click.Command]:
    """{word: command} of all verbs that begin with `prefix`."""
    found: dict[str, click.Command] = {}
    for verb in VERBS:
        if verb.startswith(prefix):
            word, space, _ = verb.removeprefix(prefix).partition(" ")
            if word not in found:
                found[word] = _group(word) if space else Named(verb)
    return found


def _group(name: str) -> click.Group:
    return Group(name=name, help=GROUPS[name], commands=_commands(f"{name} "), context_settings=CONTEXT)
