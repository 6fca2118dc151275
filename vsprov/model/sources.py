"""The sources of images, for `kind: Image`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Literal

from vsprov.model.fields import Section, many, mapping, one, strings, value
from vsprov.model.values import patterns, units
from vsprov.model.values.names import parse_signal, parse_user
from vsprov.model.values.units import UnitError

SHELL = ("/bin/sh", "-ec")  # runs a step that is a command line
_DIGEST: patterns.Schema = {
    "pattern": "^sha256:[0-9a-f]{64}$",
    "patternErrorMessage": "is not a digest: sha256: followed by 64 hexadecimal digits in lower case",
}


def parse_mode(raw: Any) -> str:
    """`0644` from 644 or "0644". Raises UnitError for anything but a file mode."""
    text = str(raw)
    if not re.fullmatch(r"[0-7]{3,4}", text, re.ASCII):
        raise UnitError(f"{units.short(raw, repr)} is not a file mode", 'write "0644" or "755", in quotes')
    return text.rjust(4, "0")


def parse_owner(raw: Any) -> str:
    """`UID:GID` from UID or UID:GID, both within the ID range of a server."""
    text = str(raw)
    parts = text.split(":")
    if len(parts) > 2 or not all(re.fullmatch(r"0|[1-9][0-9]{0,4}", part, re.ASCII) for part in parts):
        raise UnitError(f"{units.short(raw, repr)} is not an owner", 'write "0:0" or "1000"')
    if any(int(part) > 65535 for part in parts):
        raise UnitError(f"{text!r} is above 65535, the highest ID of a server")
    return f"{int(parts[0])}:{int(parts[-1])}"


class HostSource(Section):
    """Programs and libraries of the host."""

    paths: tuple[str, ...] = strings(
        doc="Additional directories of the host to mount read-only.", schema={"items": patterns.ABSOLUTE}
    )


class TarSource(Section):
    """An archive."""

    path: str = value(
        doc="Path of the archive, relative to the manifest.", schema=patterns.PATH, relative=True
    )
    sha256: str | None = value(
        None,
        doc="Expected SHA-256 of the archive, in hexadecimal.",
        schema={
            "pattern": "^[0-9a-f]{64}$",
            "patternErrorMessage": "is not a SHA-256: 64 hexadecimal digits in lower case",
        },
    )


class OciSource(Section):
    """An image of a registry, or of a directory in the OCI layout."""

    ref: str | None = value(
        None,
        doc="Image in a registry, such as docker.io/library/debian:12.",
        schema={
            "maxLength": 512,
            "pattern": r"^[A-Za-z0-9\[][A-Za-z0-9._:/@\[\]-]*$",
            "patternErrorMessage": "is not an image reference; write registry/repository:tag",
        },
        choice=True,
    )
    layout: str | None = value(
        None,
        doc="Directory in OCI image layout, relative to the manifest.",
        schema=patterns.PATH,
        relative=True,
        choice=True,
    )
    archive: str | None = value(
        None,
        doc="Archive written by docker save, podman save or skopeo copy, relative to the manifest.",
        schema=patterns.PATH,
        relative=True,
        choice=True,
    )
    name: str | None = value(
        None,
        doc="Image to use if the layout or archive contains several.",
        schema={
            "maxLength": 512,
            "pattern": r"^[A-Za-z0-9._:/@+-]+$",
            "patternErrorMessage": "is not a valid image name",
        },
    )
    digest: str | None = value(
        None,
        doc="Digest that the reference must resolve to, whatever its tag points to.",
        schema=_DIGEST,
    )
    insecure: bool = value(False, doc="Allow a registry without TLS or with an untrusted certificate.")


class BootstrapSource(Section):
    """A Debian system, made from packages."""

    suite: str = value(
        doc="Release to install: bookworm, stable, noble, …",
        schema={
            "maxLength": 64,
            "pattern": "^[a-z][a-z0-9.-]*$",
            "patternErrorMessage": "is not a valid suite name",
        },
    )
    packages: tuple[str, ...] = strings(
        doc="Packages to install in addition to those of the variant.",
        schema={"items": patterns.PACKAGE, "maxItems": 1000},
    )
    mirror: str | None = value(
        None,
        doc="Address of the package mirror. Defaults to that of the bootstrap program.",
        schema={
            "maxLength": 512,
            "pattern": r"""^(https?|file|copy)://?[^\u0000-\u0020,'"\\]+$""",
            "patternErrorMessage": "is not a valid mirror address, such as http://deb.debian.org/debian",
        },
    )
    components: tuple[str, ...] = strings(
        ("main",),
        doc="Components of the archive to use.",
        schema={
            "items": {
                **patterns.PACKAGE,
                "patternErrorMessage": "is not a component, such as main or contrib",
            },
            "minItems": 1,
            "maxItems": 16,
        },
    )
    variant: Literal["minbase", "standard"] = value(
        "minbase",
        doc="minbase: essential packages and apt. standard: all packages of a standard installation.",
    )


_OWNER: patterns.Schema = {"type": ["string", "integer"]}
_OWNER_DOC = "Owner of the created files: UID or UID:GID."
_MODE = patterns.file_mode("0644")


class CopyStep(Section):
    """A file or directory that is copied into an image."""

    source: str = value(
        doc="File or directory to copy, relative to the manifest.", schema=patterns.PATH, relative=True
    )
    target: str = value(
        doc="Destination in the image. The contents of a directory are copied into it; a file is copied into "
        "it if it ends in /.",
        schema=patterns.ABSOLUTE,
    )
    owner: str = value("0:0", doc=_OWNER_DOC, schema=_OWNER, parse=parse_owner)
    mode: str | None = value(
        None, doc="Permissions of the files. Defaults to those of the source.", schema=_MODE, parse=parse_mode
    )


class WriteStep(Section):
    """A file with a given text."""

    path: str = value(doc="Path of the file in the image.", schema=patterns.ABSOLUTE)
    content: str = value(doc="Content of the file.", schema={**patterns.TEXT, "maxLength": 1 << 20})
    owner: str = value("0:0", doc=_OWNER_DOC, schema=_OWNER, parse=parse_owner)
    mode: str = value("0644", doc="Permissions of the file.", schema=_MODE, parse=parse_mode)


def _parse_command(raw: Any) -> tuple[str, ...]:
    return tuple(raw) if isinstance(raw, list | tuple) else (*SHELL, str(raw))


class RunStep(Section):
    """A command that is run in a server made from the image so far."""

    command: tuple[str, ...] = value(
        (),
        doc="A command line for /bin/sh -ec, or a program and its arguments.",
        schema={
            "type": ["array", "string"],
            "items": patterns.TEXT,
            "minItems": 1,
            **patterns.COMMAND_LINE,
        },
        parse=_parse_command,
        dump=list,
        required=True,
    )
    network: str = value(
        "none",
        doc="none: loopback only. host: the network of the host. Or the name of a network of type bridge, "
        "through which package managers reach the world, but not the services of the host.",
        schema=patterns.NAME,
    )
    env: Mapping[str, str] = mapping(
        doc="Environment variables for the command, in addition to those of the image.",
        schema=patterns.VARIABLES,
    )
    user: str = value(
        "0:0", doc="User that runs the command.", schema=patterns.NAME_OR_NUMBER, parse=parse_user
    )
    working_dir: str = value("/", doc="Working directory of the command.", schema=patterns.ABSOLUTE)


def _run_of(raw: Any) -> Any:
    """The map for the short form `run: COMMAND LINE`."""
    return {"command": raw} if isinstance(raw, str) else raw


class Step(Section):
    """A build step, which creates one layer. Exactly one key is set."""

    copy: CopyStep | None = one(
        CopyStep, None, doc="Copy a file or the contents of a directory into the image.", choice=True
    )
    write: WriteStep | None = one(WriteStep, None, doc="Create a file.", choice=True)
    run: RunStep | None = one(
        RunStep,
        None,
        doc="Run a command in a temporary server: a command line for /bin/sh -ec, or a map.",
        schema={"type": ["object", "string"], **patterns.COMMAND_LINE},
        expand=_run_of,
        choice=True,
    )


class Defaults(Section):
    """Defaults for servers that use the image; each overrides the default of `from`."""

    command: tuple[str, ...] = strings(doc="Default command of servers.", schema={"items": patterns.TEXT})
    env: Mapping[str, str] = mapping(
        doc="Default environment variables of servers, in addition to those of `from`.",
        schema=patterns.VARIABLES,
    )
    working_dir: str | None = value(
        None, doc="Default working directory of servers.", schema=patterns.ABSOLUTE
    )
    user: str | None = value(
        None, doc="Default user of servers.", schema=patterns.NAME_OR_NUMBER, parse=parse_user
    )
    stop_signal: str | None = value(
        None,
        doc="Default stop signal of servers.",
        schema=patterns.NAME_OR_NUMBER,
        parse=parse_signal,
    )


class BuildSource(Section):
    """Another image and steps that change it."""

    from_: str = value(doc="Image to build on.", schema=patterns.NAME, refers="Image")
    steps: tuple[Step, ...] = many(
        Step,
        doc="Build steps. Each creates a layer, and runs again only if it or an earlier step changes.",
        schema={"maxItems": 500},
    )
    defaults: Defaults = one(Defaults, Defaults(), doc="Defaults for servers that use the image.")


class CommitSource(Section):
    """An image that was made of a server, by the verb `commit`."""

    server: str = value(doc="Server whose files were added to its image.", schema=patterns.NAME)
    digest: str = value(doc="Digest of the image, which has to be in the store.", schema=_DIGEST)
    message: str | None = value(None, doc="Why it was made.", schema={**patterns.TEXT, "maxLength": 1000})
    author: str | None = value(None, doc="Who made it.", schema={**patterns.TEXT, "maxLength": 200})


class Source(Section):
    """Where an image comes from. Exactly one key is set."""

    host: HostSource | None = one(
        HostSource,
        None,
        doc="The host's own /usr, read-only, with a small generated root file system. Downloads nothing.",
        choice=True,
    )
    directory: str | None = value(
        None,
        doc="Directory that contains a root file system, relative to the manifest.",
        schema=patterns.PATH,
        relative=True,
        choice=True,
    )
    tar: TarSource | None = one(
        TarSource, None, doc="Archive of a root file system: plain, gz, bz2, xz or zst.", choice=True
    )
    oci: OciSource | None = one(
        OciSource, None, doc="OCI or Docker image: exactly one of ref, layout and archive.", choice=True
    )
    bootstrap: BootstrapSource | None = one(
        BootstrapSource,
        None,
        doc="Debian or a derivative, installed with mmdebstrap or debootstrap.",
        choice=True,
    )
    build: BuildSource | None = one(
        BuildSource, None, doc="Another image with additional layers.", choice=True
    )
    commit: CommitSource | None = one(
        CommitSource,
        None,
        doc="An image in the store that the verb `commit` has made of a server. It cannot be made again from "
        "a manifest.",
        choice=True,
    )

    @property
    def kind(self) -> str:
        """The key that is set ("host", "oci", …), or ""."""
        return next((field for field in self.__struct_fields__ if getattr(self, field) is not None), "")
