"""Where images come from: the sources of a manifest's `kind: Image`, and how much one may hold."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from vsprov.model import fields, units
from vsprov.model.fields import many, mapping, one, value, words
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

    paths: tuple[str, ...] = words()


@dataclass(frozen=True, slots=True, kw_only=True)
class TarSource:
    path: str
    sha256: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class OciSource:
    """An OCI or Docker image: `ref` in a registry, `layout` a folder, or `archive` a file.

    `name` picks one of several images in a layout or archive; `digest`, "sha256:…", is what the reference
    must lead to; `insecure` allows a registry without TLS or with an unknown certificate.
    """

    ref: str | None = None
    layout: str | None = None
    archive: str | None = None
    name: str | None = None
    digest: str | None = None
    insecure: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class BootstrapSource:
    """A Debian or a relative of it, installed from its packages."""

    suite: str
    packages: tuple[str, ...] = words()
    mirror: str | None = None
    components: tuple[str, ...] = value(("main",), parse=tuple, dump=list)
    variant: Literal["minbase", "standard"] = "minbase"


@dataclass(frozen=True, slots=True, kw_only=True)
class CopyStep:
    """Copy a file or folder beside the manifest into the image."""

    source: str
    target: str
    owner: str = value("0:0", parse=parse_owner)
    mode: str | None = value(None, parse=parse_mode)


@dataclass(frozen=True, slots=True, kw_only=True)
class WriteStep:
    """Make a file with this content."""

    path: str
    content: str
    owner: str = value("0:0", parse=parse_owner)
    mode: str = value("0644", parse=parse_mode)


@dataclass(frozen=True, slots=True, kw_only=True)
class RunStep:
    """Run a command in a server of the image; `network` lends it the host's."""

    command: tuple[str, ...] = words()
    network: Literal["none", "host"] = "none"
    env: Mapping[str, str] = mapping()
    user: str = "0:0"
    working_dir: str = "/"


def parse_run(raw: Any) -> RunStep:
    """A run step of `run: "a line for sh"`, or of a map whose command may be such a line."""
    if isinstance(raw, str):
        raw = {"command": raw}
    if isinstance(raw.get("command"), str):
        raw = {**raw, "command": [*SHELL, raw["command"]]}

    def fail(path: fields.Path, error: UnitError) -> None:
        raise error

    step = fields.read(RunStep, raw, fail)
    assert step is not None
    return step


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One layer of a build; exactly one is set."""

    copy: CopyStep | None = one(CopyStep, None)
    write: WriteStep | None = one(WriteStep, None)
    run: RunStep | None = value(None, parse=parse_run, dump=fields.write)


@dataclass(frozen=True, slots=True, kw_only=True)
class Defaults:
    """What servers of the image do where they do not say it themselves; each replaces what `from` has."""

    command: tuple[str, ...] = words()
    env: Mapping[str, str] = mapping()
    working_dir: str | None = None
    user: str | None = None
    stop_signal: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildSource:
    """The image `from` with further layers."""

    from_: str
    steps: tuple[Step, ...] = many(Step)
    defaults: Defaults = one(Defaults, Defaults())


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Where an image comes from; exactly one is set."""

    host: HostSource | None = one(HostSource, None)
    directory: str | None = None
    tar: TarSource | None = one(TarSource, None)
    oci: OciSource | None = one(OciSource, None)
    bootstrap: BootstrapSource | None = one(BootstrapSource, None)
    build: BuildSource | None = one(BuildSource, None)

    @property
    def kind(self) -> str:
        """The key that is set: "host", "oci", …; "" of none."""
        return next((field for field in self.__slots__ if getattr(self, field) is not None), "")


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageLimits:
    """How much an image may hold before its import is stopped: bytes and files."""

    size: int = value(64 << 30, parse=units.parse_bytes)
    files: int = 1_000_000
