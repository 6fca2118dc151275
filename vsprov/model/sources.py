"""Where images come from: the sources of a manifest's `kind: Image`, and how much one may hold."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from vsprov.model import patterns, units
from vsprov.model.fields import many, mapping, one, strings, value
from vsprov.model.kinds import BYTES
from vsprov.model.names import parse_signal, parse_user
from vsprov.model.units import UnitError

SHELL = ("/bin/sh", "-ec")  # what runs a step that is one line


def parse_mode(raw: Any) -> str:
    """`0644` of 644 or 0644 in quotes; UnitError for what is no file mode."""
    text = str(raw)
    if not re.fullmatch(r"[0-7]{3,4}", text, re.ASCII):
        raise UnitError(f"{units.short(raw, repr)} is not a file mode", 'write "0644" or "755", in quotes')
    return text.rjust(4, "0")


def parse_owner(raw: Any) -> str:
    """`UID:GID` of UID or UID:GID, both within a server's ids."""
    text = str(raw)
    parts = text.split(":")
    if len(parts) > 2 or not all(re.fullmatch(r"0|[1-9][0-9]{0,4}", part, re.ASCII) for part in parts):
        raise UnitError(f"{units.short(raw, repr)} is not an owner", 'write "0:0" or "1000"')
    if any(int(part) > 65535 for part in parts):
        raise UnitError(f"{text!r} is above 65535, the end of a server's id range")
    return f"{int(parts[0])}:{int(parts[-1])}"


@dataclass(frozen=True, slots=True, kw_only=True)
class HostSource:
    """The host's own /usr, and `paths` of it that are bound read-only as well."""

    paths: tuple[str, ...] = strings(
        doc="More folders of the host, shown read-only.", schema={"items": patterns.ABSOLUTE}
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class TarSource:
    path: str = value(doc="The archive; relative to the manifest.", schema=patterns.PATH, relative=True)
    sha256: str | None = value(
        None,
        doc="What its SHA-256 must be, in hexadecimal.",
        schema={
            "pattern": "^[0-9a-f]{64}$",
            "patternErrorMessage": "is not a SHA-256: 64 of 0-9 and a-f",
        },
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class OciSource:
    """An OCI or Docker image: `ref` in a registry, `layout` a folder, or `archive` a file.

    `name` picks one of several images in a layout or archive; `digest`, "sha256:…", is what the reference
    must lead to; `insecure` allows a registry without TLS or with an unknown certificate.
    """

    ref: str | None = value(
        None,
        doc="An image in a registry: docker.io/library/debian:12.",
        schema={
            "maxLength": 512,
            "pattern": r"^[A-Za-z0-9\[][A-Za-z0-9._:/@\[\]-]*$",
            "patternErrorMessage": "is not a reference to an image; write registry/repository:tag",
        },
        choice=True,
    )
    layout: str | None = value(
        None,
        doc="A folder in the OCI image layout; relative to the manifest.",
        schema=patterns.PATH,
        relative=True,
        choice=True,
    )
    archive: str | None = value(
        None,
        doc="A file of docker save, podman save or skopeo copy; relative to the manifest.",
        schema=patterns.PATH,
        relative=True,
        choice=True,
    )
    name: str | None = value(
        None,
        doc="Which image of a layout or archive that holds several.",
        schema={
            "maxLength": 512,
            "pattern": r"^[A-Za-z0-9._:/@+-]+$",
            "patternErrorMessage": "is not the name of an image",
        },
    )
    digest: str | None = value(
        None,
        doc="What the reference must lead to, whatever its tag says by now.",
        schema={
            "pattern": "^sha256:[0-9a-f]{64}$",
            "patternErrorMessage": "is not a digest: sha256: and 64 of 0-9 and a-f",
        },
    )
    insecure: bool = value(
        False, doc="Allow a registry without TLS, or with a certificate that nobody known has signed."
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class BootstrapSource:
    """A Debian or a relative of it, installed from its packages."""

    suite: str = value(
        doc="The release: bookworm, stable, noble, …",
        schema={
            "maxLength": 64,
            "pattern": "^[a-z][a-z0-9.-]*$",
            "patternErrorMessage": "is not the name of a suite",
        },
    )
    packages: tuple[str, ...] = strings(
        doc="Packages to install besides those of the variant.",
        schema={"items": patterns.PACKAGE, "maxItems": 1000},
    )
    mirror: str | None = value(
        None,
        doc="Where the packages come from; the program's own choice if absent.",
        schema={
            "maxLength": 512,
            "pattern": r"^(https?|file|copy)://?[^\s,'\"\\]+$",
            "patternErrorMessage": "is not the address of a mirror, as http://deb.debian.org/debian",
        },
    )
    components: tuple[str, ...] = strings(
        ("main",),
        doc="Parts of the archive.",
        schema={
            "items": {
                **patterns.PACKAGE,
                "patternErrorMessage": "is not a component: main, contrib, non-free, …",
            },
            "minItems": 1,
            "maxItems": 16,
        },
    )
    variant: Literal["minbase", "standard"] = value(
        "minbase", doc="minbase: what apt needs. standard: also what every Debian has."
    )


_OWNER: patterns.Schema = {"type": ["string", "integer"]}
_OWNER_DOC = "UID or UID:GID of what is made."
_MODE = patterns.file_mode("0644")


@dataclass(frozen=True, slots=True, kw_only=True)
class CopyStep:
    """Copy a file or folder beside the manifest into the image."""

    source: str = value(
        doc="A file or a folder; relative to the manifest.", schema=patterns.PATH, relative=True
    )
    target: str = value(
        doc="Where in the image. What is in a folder comes into it; a file too, if it ends in /.",
        schema=patterns.ABSOLUTE,
    )
    owner: str = value("0:0", doc=_OWNER_DOC, schema=_OWNER, parse=parse_owner)
    mode: str | None = value(
        None, doc="The permissions of files; theirs if absent.", schema=_MODE, parse=parse_mode
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class WriteStep:
    """Make a file with this content."""

    path: str = value(doc="The file.", schema=patterns.ABSOLUTE)
    content: str = value(doc="What it holds.", schema={**patterns.TEXT, "maxLength": 1 << 20})
    owner: str = value("0:0", doc=_OWNER_DOC, schema=_OWNER, parse=parse_owner)
    mode: str = value("0644", doc="Its permissions.", schema=_MODE, parse=parse_mode)


def _parse_command(raw: Any) -> tuple[str, ...]:
    return tuple(raw) if isinstance(raw, list | tuple) else (*SHELL, str(raw))


@dataclass(frozen=True, slots=True, kw_only=True)
class RunStep:
    """Run a command in a server of the image; `network` lends it the host's."""

    command: tuple[str, ...] = value(
        (),
        doc="A line for /bin/sh -ec, or a program and its arguments.",
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
    network: Literal["none", "host"] = value(
        "none", doc="none: loopback only. host: the host's network, as package managers need it."
    )
    env: Mapping[str, str] = mapping(
        doc="Environment variables of the command, besides those of the image.", schema=patterns.VARIABLES
    )
    user: str = value("0:0", doc="Who runs it.", schema=patterns.NAME_OR_NUMBER, parse=parse_user)
    working_dir: str = value("/", doc="Where it starts.", schema=patterns.ABSOLUTE)


def _run_of(raw: Any) -> Any:
    """The map that `run: a line for sh` stands for."""
    return {"command": raw} if isinstance(raw, str) else raw


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One layer of a build; exactly one is set."""

    copy: CopyStep | None = one(
        CopyStep, None, doc="Copy a file, or what is in a folder, into the image.", choice=True
    )
    write: WriteStep | None = one(WriteStep, None, doc="Make a file.", choice=True)
    run: RunStep | None = one(
        RunStep,
        None,
        doc="Run a command in a server of its own: a line for /bin/sh -ec, or a map.",
        schema={"type": ["object", "string"], **patterns.COMMAND_LINE},
        expand=_run_of,
        choice=True,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Defaults:
    """What servers of the image do where they do not say it themselves; each replaces what `from` has."""

    command: tuple[str, ...] = strings(doc="What servers run.", schema={"items": patterns.TEXT})
    env: Mapping[str, str] = mapping(
        doc="Environment variables of servers, besides those of `from`.", schema=patterns.VARIABLES
    )
    working_dir: str | None = value(None, doc="Where their command starts.", schema=patterns.ABSOLUTE)
    user: str | None = value(None, doc="Who runs it.", schema=patterns.NAME_OR_NUMBER, parse=parse_user)
    stop_signal: str | None = value(
        None,
        doc="The signal that asks it to end.",
        schema=patterns.NAME_OR_NUMBER,
        parse=parse_signal,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildSource:
    """The image `from` with further layers."""

    from_: str = value(doc="The Image to build on.", schema=patterns.NAME, refers="Image")
    steps: tuple[Step, ...] = many(
        Step,
        doc="Each makes a layer; one is done again only when it or one before it changes.",
        schema={"maxItems": 500},
    )
    defaults: Defaults = one(Defaults, Defaults(), doc="What servers do where they do not say it themselves.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Where an image comes from; exactly one is set."""

    host: HostSource | None = one(
        HostSource,
        None,
        doc="The host's own /usr, read-only, with a small generated root: nothing to download.",
        choice=True,
    )
    directory: str | None = value(
        None,
        doc="A folder that holds a root file system; relative to the manifest.",
        schema=patterns.PATH,
        relative=True,
        choice=True,
    )
    tar: TarSource | None = one(
        TarSource, None, doc="An archive of a root file system: plain, gz, bz2, xz or zst.", choice=True
    )
    oci: OciSource | None = one(
        OciSource, None, doc="An OCI or Docker image: one of ref, layout and archive.", choice=True
    )
    bootstrap: BootstrapSource | None = one(
        BootstrapSource,
        None,
        doc="A Debian or a relative of it, installed by mmdebstrap or debootstrap.",
        choice=True,
    )
    build: BuildSource | None = one(BuildSource, None, doc="Another image with further layers.", choice=True)

    @property
    def kind(self) -> str:
        """The key that is set: "host", "oci", …; "" of none."""
        return next((field for field in self.__slots__ if getattr(self, field) is not None), "")


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageLimits:
    """How much an image may hold before its import is stopped: bytes and files."""

    size: int = value(64 << 30, doc="Bytes; an import that would make more is stopped.", kind=BYTES)
    files: int = value(
        1_000_000, doc="Files, folders and links.", schema={"minimum": 1, "maximum": 100_000_000}
    )
