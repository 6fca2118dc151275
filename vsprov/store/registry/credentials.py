"""Credentials for registries, from the files and helpers of docker, podman and skopeo.

containers-auth.json(5); https://docs.docker.com/reference/cli/docker/login/#credential-stores. Error messages
name the file, and never contain a part of a credential.
"""

from __future__ import annotations

import base64
import binascii
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from vsprov.errors import ImageError, reason
from vsprov.model.values.image_reference import DOCKER, Reference
from vsprov.store.registry import untrusted_json

_DOCKER_KEY = "https://index.docker.io/v1/"  # the name of docker.io in docker's files
_HELPER_SECONDS = 30  # some helpers ask the user to unlock a key ring
_TOKEN_USER = "<token>"  # the user name that a helper returns with an identity token


@dataclass(frozen=True, slots=True)
class Credentials:
    """User and password, or an identity token; `origin` is the file that they come from."""

    origin: str
    user: str = ""
    password: str = field(default="", repr=False)
    identity_token: str = field(default="", repr=False)


def find(reference: Reference) -> Credentials | None:
    """The credentials for an image: those with the most specific key in the first file that has any.

    None if no file has any. Raises ImageError for a file that is not readable and for a helper program that
    fails: without credentials, the registry's refusal would be less clear.
    """
    for path in _files():
        content = _read(path)
        found = _from_file(path, content, reference) if content is not None else None
        if found is not None:
            return found
    return None


def _files() -> Iterator[str]:
    """The files that may contain credentials, in order of precedence."""
    given = os.environ.get("REGISTRY_AUTH_FILE")
    if given:
        yield given
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    if runtime:
        yield f"{runtime}/containers/auth.json"
    yield f"/run/containers/{os.geteuid()}/auth.json"
    home = os.environ.get("HOME", "")
    config = os.environ.get("XDG_CONFIG_HOME") or (f"{home}/.config" if home else "")
    if config:
        yield f"{config}/containers/auth.json"
    docker = os.environ.get("DOCKER_CONFIG")
    if docker:
        yield f"{docker}/config.json"
    if home:
        yield f"{home}/.docker/config.json"


def _read(path: str) -> dict[str, Any] | None:
    try:
        with open(path, "rb") as file:
            data = file.read(untrusted_json.LIMIT + 1)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise ImageError(f"{path}: read the credentials: {reason(error)}") from error
    return untrusted_json.parse(data, path) if data.strip() else None


def _from_file(path: str, content: dict[str, Any], reference: Reference) -> Credentials | None:
    helper = _by_key(untrusted_json.text_map(content, "credHelpers", path)).get(reference.registry)
    if helper:
        return _ask(helper, path, reference)
    entries = _by_key(untrusted_json.get(content, "auths", dict, path) or {})
    for key in _keys(reference):
        found = _from_entry(path, key, entries)
        if found is not None:
            return found
    store = untrusted_json.text(content, "credsStore", path)
    return _ask(store, path, reference) if store else None


def _by_key(entries: dict[str, Any]) -> dict[str, Any]:
    """The entries by registry or registry/repository, where docker writes URLs."""
    out = {}
    for key, value in entries.items():
        plain = re.sub(r"\Ahttps?://|/(?:v[12]/?)?\Z", "", key)
        host, slash, rest = plain.partition("/")
        host = DOCKER if host in ("index.docker.io", "registry-1.docker.io") else host.lower()
        out[host + slash + rest] = value
    return out


def _keys(reference: Reference) -> Iterator[str]:
    key = reference.name
    while key:
        yield key
        key = key.rpartition("/")[0]


def _from_entry(path: str, key: str, entries: dict[str, Any]) -> Credentials | None:
    """The credentials in one entry; None if it is missing or empty, as docker writes it beside a helper."""
    entry: dict[str, Any] = untrusted_json.get(entries, key, dict, path) or {}
    for name in ("auth", "identitytoken"):
        if not isinstance(entry.get(name, ""), str):
            raise _unreadable(path, key)
    user, password = _decoded(entry.get("auth", ""), path, key)
    token = entry.get("identitytoken", "")
    return Credentials(path, user, password, token) if user or token else None


def _decoded(auth: str, path: str, key: str) -> tuple[str, str]:
    """User and password from base64. Docker versions of 2014 add a NUL."""
    try:
        user, colon, password = base64.b64decode(auth, validate=True).decode().partition(":")
    except (binascii.Error, ValueError):
        raise _unreadable(path, key) from None
    if auth and not colon:
        raise _unreadable(path, key)
    return user, password.rstrip("\0")


def _unreadable(path: str, key: str) -> ImageError:
    return ImageError(f"{path}: the entry for {key} is invalid", hint=f"log in again: skopeo login {key}")


def _ask(helper: str, path: str, reference: Reference) -> Credentials | None:
    """The credentials for a registry from the program `docker-credential-<helper>`."""
    import subprocess  # slow to import, and rarely needed

    if not re.fullmatch(r"[A-Za-z0-9_-]+", helper):
        raise ImageError(f"{path}: {helper!r} is not the name of a credential helper")
    program = f"docker-credential-{helper}"
    server = _DOCKER_KEY if reference.registry == DOCKER else reference.registry
    try:
        done = subprocess.run(
            [program, "get"], input=server.encode(), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
            timeout=_HELPER_SECONDS,
        )  # fmt: skip
    except OSError as error:
        raise ImageError(
            f"{path}: run {program}: {reason(error)}", hint="install it, or remove it from that file"
        ) from error
    except subprocess.TimeoutExpired:
        raise ImageError(f"{path}: {program}: no answer within {_HELPER_SECONDS} s") from None
    if done.returncode and b"credentials not found" in done.stdout:
        return None  # the text is defined by docker-credential-helpers
    if done.returncode:
        raise ImageError(f"{path}: {program}: exited with status {done.returncode}")
    return _answered(done.stdout, f"{path}: {program}")


def _answered(data: bytes, label: str) -> Credentials | None:
    content = untrusted_json.parse(data, label)
    if not all(isinstance(content.get(key, ""), str) for key in ("Username", "Secret")):
        raise ImageError(f"{label}: invalid answer")
    user, secret = content.get("Username", ""), content.get("Secret", "")
    if user == _TOKEN_USER:
        return Credentials(label, identity_token=secret)
    return Credentials(label, user, secret) if user else None
