"""References to images in registries, in the short forms of docker and podman and in full.

`debian:12` is `docker.io/library/debian:12`: the part before the first slash is a registry only if it cannot
be part of a repository name, because it contains a dot or a colon or is `localhost`.
"""

from __future__ import annotations

import re

from msgspec import Struct

from vsprov.model.values.units import UnitError, short

DOCKER = "docker.io"
# The registry docker.io is served by another host.
_HOSTS = {DOCKER: "registry-1.docker.io"}
_ALIASES = {"index.docker.io": DOCKER, "registry-1.docker.io": DOCKER}
_EXAMPLE = "write registry/repository:tag, for example docker.io/library/debian:12"
_LONGEST = 255  # of registry and repository together, as registries limit it

_LABEL = r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
_ADDRESS = r"\[[0-9A-Fa-f:.]{2,45}\]"
_REGISTRY = re.compile(rf"(?:{_LABEL}(?:\.{_LABEL})*|{_ADDRESS})(?::([0-9]{{1,5}}))?", re.ASCII)
_COMPONENT = re.compile(r"[a-z0-9]+(?:(?:\.|__?|-+)[a-z0-9]+)*", re.ASCII)
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}", re.ASCII)
_DIGEST = re.compile(r"[0-9a-f]{64}", re.ASCII)


class Reference(Struct, frozen=True):
    """An image in a registry, by tag, digest (SHA-256 in hexadecimal) or both; "" if not given."""

    registry: str
    repository: str
    tag: str = ""
    digest: str = ""

    @property
    def host(self) -> str:
        """The host that serves the registry, with the port if one was given."""
        return _HOSTS.get(self.registry, self.registry)

    @property
    def name(self) -> str:
        """Registry and repository, without tag and digest."""
        return f"{self.registry}/{self.repository}"

    def __str__(self) -> str:
        tag = f":{self.tag}" if self.tag else ""
        digest = f"@sha256:{self.digest}" if self.digest else ""
        return f"{self.name}{tag}{digest}"


def parse_reference(text: object) -> Reference:
    """The reference from `debian`, `host:5000/web/app:1.2` or `name@sha256:…`.

    The tag defaults to `latest` if there is no digest. Raises UnitError with a hint that shows the correct
    form.
    """
    if not isinstance(text, str):
        raise UnitError(f"{short(text, repr)} is not an image reference", _EXAMPLE)
    if text == "" or len(text) > 600 or not text.isascii() or not text.isprintable() or " " in text:
        raise UnitError(f"{short(text, repr)} is not an image reference", _EXAMPLE)
    scheme = re.match(r"([a-z-]+)://", text)
    if scheme:
        raise UnitError(f"{short(text, repr)} is a URL", f"omit {scheme[0]}")
    rest, at, digest = text.partition("@")
    name, tag = _without_tag(rest)
    registry, repository = _split(name)
    _check_registry(registry, text)
    _check_repository(repository, text)
    if len(registry) + 1 + len(repository) > _LONGEST:
        raise UnitError(f"{short(text, repr)} is longer than {_LONGEST} characters")
    if tag is not None and not _TAG.fullmatch(tag):
        raise UnitError(f"{short(tag, repr)} is not a tag", "tags have up to 128 letters, digits, _, . and -")
    return Reference(registry, repository, tag or ("" if at else "latest"), _digest(digest) if at else "")


def _without_tag(text: str) -> tuple[str, str | None]:
    """The name and the tag. A colon before the last slash belongs to a port."""
    head, slash, last = text.rpartition("/")
    last, colon, tag = last.partition(":")
    return head + slash + last, tag if colon else None


def _split(name: str) -> tuple[str, str]:
    first, slash, rest = name.partition("/")
    lower = first.lower()
    if slash and (re.search(r"[.:]", first) or lower == "localhost"):
        registry, repository = _ALIASES.get(lower, lower), rest
    elif slash and lower != first:  # a host, but in lower case it would be a part of the repository
        registry, repository = first, rest
    else:
        registry, repository = DOCKER, name
    if registry == DOCKER and "/" not in repository:
        repository = f"library/{repository}"
    return registry, repository


def _check_registry(registry: str, text: str) -> None:
    match = _REGISTRY.fullmatch(registry)
    if match is None or len(registry) > 253 or (match[1] and not 1 <= int(match[1]) <= 65535):
        raise UnitError(f"{short(text, repr)}: {short(registry, repr)} is not a host or host:port", _EXAMPLE)


def _check_repository(repository: str, text: str) -> None:
    for part in repository.split("/"):
        if _COMPONENT.fullmatch(part):
            continue
        shown = f"{short(text, repr)}: {short(part, repr)} is not allowed in a repository name"
        if part and _COMPONENT.fullmatch(part.lower()):
            raise UnitError(shown, f"repository names are in lower case: {short(part.lower())}")
        raise UnitError(shown, _EXAMPLE)
    if _DIGEST.fullmatch(repository.removeprefix("library/")):
        raise UnitError(f"{short(text, repr)} is an image ID, not an image reference", "write name@sha256:…")


def _digest(text: str) -> str:
    algorithm, _, value = text.partition(":")
    if algorithm != "sha256":
        raise UnitError(f"{short(text, repr)} is not a supported digest", "write @sha256:…")
    if not _DIGEST.fullmatch(value):
        raise UnitError(f"{short(text, repr)} is not a SHA-256", "write 64 hexadecimal digits in lower case")
    return value
