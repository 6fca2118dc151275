"""The `host` image: a generated skeleton with the host's own /usr bound over it read-only.

The host and all of its servers then run the same files from the same page cache. The skeleton contains what
programs in /usr need in /etc, but nothing confidential: no shadow passwords, no keys, no user accounts.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Iterable, Iterator

from msgspec import Struct

from vsprov.errors import ImageError, reason
from vsprov.model.sources import HostSource

RECIPE = 1  # increment it when existing skeletons must be rebuilt, which restarts the servers of the image
TOP_LEVEL = ("bin", "sbin", "lib", "lib32", "lib64", "libx32")

FOLDERS = {
    "dev": 0o755, "etc": 0o755, "home": 0o755, "mnt": 0o755, "opt": 0o755, "proc": 0o555, "root": 0o700,
    "run": 0o755, "srv": 0o755, "sys": 0o555, "tmp": 0o1777, "usr": 0o755, "var": 0o755,
    "var/cache": 0o755, "var/lib": 0o755, "var/log": 0o755, "var/spool": 0o755, "var/tmp": 0o1777,
    "etc/alternatives": 0o755, "etc/ld.so.conf.d": 0o755, "etc/ssl": 0o755, "etc/ssl/certs": 0o755,
}  # fmt: skip
LINKS = {"var/run": "/run", "var/lock": "/run/lock", "etc/mtab": "/proc/self/mounts"}
# What the C library, its name services and TLS read: files or links, omitted if the host does not have them.
COPIED = (
    "ld.so.cache", "ld.so.conf", "localtime", "timezone", "os-release", "debian_version", "services",
    "protocols", "rpc", "ethertypes", "mime.types", "shells", "login.defs", "host.conf", "gai.conf",
    "ssl/openssl.cnf",
)  # fmt: skip
BUNDLES = ("ca-certificates.crt", "ca-bundle.crt", "ca-bundle.trust.crt", "java/cacerts")
GENERATED = {
    "etc/hostname": "",
    "etc/hosts": "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n",
    "etc/machine-id": "",  # to be mounted on; its absence would cost a copy of /etc in every server
    "etc/nsswitch.conf": "passwd: files\ngroup: files\nshadow: files\nhosts: files dns\nnetworks: files\n"
    "protocols: files\nservices: files\nethers: files\nrpc: files\n",
    "etc/profile": "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin\nexport PATH\n"
    "if [ -n \"${BASH-}\" ]; then PS1='\\u@\\h:\\w\\$ '; fi\n",
    "etc/resolv.conf": "",
}
SYSTEM_IDS = 1000  # login.defs(5): the lowest id of user accounts
NOBODY = 65534
# name: (id, home, shell); added if the host does not have them.
ACCOUNTS = {
    "root": (0, "/root", "/bin/sh"),
    "daemon": (1, "/usr/sbin", "/usr/sbin/nologin"),
    "bin": (2, "/bin", "/usr/sbin/nologin"),
    "sys": (3, "/dev", "/usr/sbin/nologin"),
    "www-data": (33, "/var/www", "/usr/sbin/nologin"),
    "nobody": (NOBODY, "/nonexistent", "/usr/sbin/nologin"),
}
GROUPS = {"root": 0, "daemon": 1, "bin": 2, "sys": 3, "tty": 5, "www-data": 33, "nogroup": NOBODY}

# The path and everything below it.
REFUSED_BELOW = {
    "/boot": "it holds the host's kernel and boot secrets",
    "/dev": "it holds the host's devices",
    "/etc": "it holds the host's passwords and keys",
    "/proc": "it shows the host's processes",
    "/root": "it holds the files of the host's administrator",
    "/run": "it holds the sockets of the host's services",
    "/sys": "it holds the host's kernel settings",
}
# The path itself; directories below it are allowed.
REFUSED = {
    "/": "it is the whole host",
    "/home": "it holds the files of the host's users",
    "/tmp": "it holds the host's temporary files",
    "/var": "it holds the host's data",
    "/var/cache": "it holds the data of the host's services",
    "/var/lib": "it holds the data of the host's services, and of other servers",
    "/var/log": "it holds the host's logs",
    "/var/mail": "it holds the mail of the host's users",
    "/var/spool": "it holds the mail and jobs of the host's users",
    "/var/tmp": "it holds the host's temporary files",
}


class Bind(Struct, frozen=True):
    """A directory of the host that is bound read-only at `target` in every server of the image."""

    source: str
    target: str


def binds(source: HostSource) -> tuple[Bind, ...]:
    """/usr, top-level directories that are not links into it, and `source.paths`; parents first."""
    paths = ["/usr", *(f"/{name}" for name, link in _top_level() if link is None), *_extra(source)]
    return tuple(Bind(path, path) for path in paths)


def check(source: HostSource, *, state_root: str = "") -> None:
    """Raise ImageError for a path that is not a directory, or would expose data of the host to servers."""
    for given in source.paths:
        problem = _problem(given, os.path.realpath(state_root) if state_root else "")
        if problem:
            raise ImageError(
                f"host.paths: {given}: {problem}",
                hint="a Server's mounts can bind a single folder of the host",
            )


def _problem(given: str, state_root: str) -> str:
    path = os.path.normpath(given)
    if not given.startswith("/") or ".." in given.split("/") or path.startswith("//") or "\0" in path:
        return "not an absolute, normalized path"
    for place, why in REFUSED_BELOW.items():
        if path == place or path.startswith(place + "/"):
            return why
    if path in REFUSED:
        return REFUSED[path]
    try:
        status = os.lstat(path)
    except OSError as error:
        return reason(error)
    real = os.path.realpath(path)
    if real != path:
        return f"leads through a symbolic link: name {real} instead"
    if not stat.S_ISDIR(status.st_mode):
        return "not a directory"
    if state_root and (f"{state_root}/".startswith(f"{path}/") or path.startswith(f"{state_root}/")):
        return f"conflicts with {state_root}, the state root of this instance"
    return ""


def digest(source: HostSource) -> str:
    """The SHA-256 of the recipe: its version, the paths, the layout of /usr on the host, and the release.

    The files do not count, so that an update of the host's packages does not restart servers.
    """
    recipe = {
        "recipe": RECIPE,
        "top": list(_top_level()),
        "paths": _extra(source),
        "release": [value for key, value in _release() if key in ("ID", "VERSION_ID")],
    }
    return hashlib.sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest()


def build(source: HostSource, top: str) -> None:
    """Create the skeleton in the empty directory `top`, owned by root."""
    for name, mode in FOLDERS.items():
        _folder(top, name, mode)
    for name, target in LINKS.items():
        os.symlink(target, f"{top}/{name}")
    for name, link in _top_level():
        if link is None:
            _folder(top, name, 0o755)
        else:
            os.symlink(link, f"{top}/{name}")
    for path in _extra(source):
        for parent in _parents(path.removeprefix("/")):
            if not os.path.isdir(f"{top}/{parent}"):
                _folder(top, parent, 0o755)
    for name, text in {**GENERATED, "etc/passwd": _passwd(), "etc/group": _group()}.items():
        _file(f"{top}/{name}", text.encode())
    for name in (*COPIED, *_alternatives(), *_library_paths(), *_certificates()):
        _copy(top, f"etc/{name}")


def _extra(source: HostSource) -> list[str]:
    paths = {os.path.normpath(path) for path in source.paths}
    return sorted(path for path in paths if path != "/usr" and not path.startswith("/usr/"))


def _top_level() -> Iterator[tuple[str, str | None]]:
    """(name, link target or None) of the host's /bin, /lib etc.; hosts with a merged /usr have links."""
    for name in TOP_LEVEL:
        if os.path.islink(f"/{name}"):
            yield name, os.readlink(f"/{name}")
        elif os.path.isdir(f"/{name}"):
            yield name, None


def _release() -> Iterator[tuple[str, str]]:
    """The fields of os-release(5), with their quotes."""
    for path in ("/etc/os-release", "/usr/lib/os-release"):
        data = _read(path)
        if data is not None:
            for line in data.decode(errors="replace").splitlines():
                key, equals, value = line.partition("=")
                if equals:
                    yield key, value
            return


def _parents(path: str) -> Iterator[str]:
    parts = path.split("/")
    return ("/".join(parts[:count]) for count in range(1, len(parts) + 1))


def _folder(top: str, name: str, mode: int) -> None:
    os.mkdir(f"{top}/{name}")
    os.chmod(f"{top}/{name}", mode)


def _file(path: str, data: bytes) -> None:
    with open(path, "xb") as file:
        os.fchmod(file.fileno(), 0o644)
        file.write(data)


def _read(path: str) -> bytes | None:
    """The content of a regular file of the host; None if there is none."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return None
    with open(fd, "rb") as file:
        return file.read() if stat.S_ISREG(os.fstat(fd).st_mode) else None


def _copy(top: str, name: str) -> None:
    """Copy the host's /`name` to the skeleton: a link as a link, a file as one that everyone can read."""
    if os.path.lexists(f"{top}/{name}"):
        return
    for parent in _parents(os.path.dirname(name)):
        if not os.path.isdir(f"{top}/{parent}"):
            _folder(top, parent, 0o755)
    if os.path.islink(f"/{name}"):
        os.symlink(os.readlink(f"/{name}"), f"{top}/{name}")
        return
    data = _read(f"/{name}")
    if data is not None:
        _file(f"{top}/{name}", data)


def _listing(folder: str) -> list[str]:
    try:
        return sorted(os.listdir(f"/etc/{folder}"))
    except OSError:
        return []


def _alternatives() -> Iterator[str]:
    return (
        f"alternatives/{name}"
        for name in _listing("alternatives")
        if os.path.islink(f"/etc/alternatives/{name}")
    )


def _library_paths() -> Iterator[str]:
    return (f"ld.so.conf.d/{name}" for name in _listing("ld.so.conf.d") if name.endswith(".conf"))


def _certificates() -> Iterator[str]:
    """The bundles of trusted certificates, the links to single ones below /usr, and links to those links.

    Other regular files are omitted: one may be the host's own certificate, which reveals its name.
    """
    for folder in ("ssl/certs", "pki/tls/certs", "pki/ca-trust/extracted/pem", "ca-certificates/extracted"):
        names = _listing(folder)
        links = {
            name: os.readlink(f"/etc/{folder}/{name}")
            for name in names
            if os.path.islink(f"/etc/{folder}/{name}")
        }
        kept = {name for name, target in links.items() if target.startswith("/usr/")}
        kept |= {name for name in BUNDLES if os.path.exists(f"/etc/{folder}/{name}")}
        kept |= {name for name in names if name.startswith("tls-ca-bundle")}
        kept |= {name for name, target in links.items() if target in kept}
        yield from (f"{folder}/{name}" for name in sorted(kept))


def _entries(path: str, count: int) -> Iterator[list[str]]:
    """The entries of passwd(5) or group(5) for system accounts."""
    for line in (_read(path) or b"").decode("utf-8", "replace").splitlines():
        fields = line.split(":")
        if (
            len(fields) == count
            and fields[0]
            and fields[0][0] not in "+-#"
            and fields[2].isascii()
            and fields[2].isdigit()
        ):
            if int(fields[2]) < SYSTEM_IDS or int(fields[2]) == NOBODY:
                yield fields


def _passwd() -> str:
    found = {fields[0]: [fields[0], "*", *fields[2:]] for fields in _entries("/etc/passwd", 7)}
    taken = {fields[2] for fields in found.values()}
    for name, (number, home, shell) in ACCOUNTS.items():
        if name not in found and str(number) not in taken:
            found[name] = [name, "*", str(number), str(number), name, home, shell]
    if "root" in found:
        found["root"][6] = "/bin/bash" if os.path.exists("/bin/bash") else "/bin/sh"
    return _table(found.values())


def _group() -> str:
    members = {fields[0] for fields in _entries("/etc/passwd", 7)}
    found = {}
    for name, _, number, users in _entries("/etc/group", 4):
        found[name] = [name, "*", number, ",".join(user for user in users.split(",") if user in members)]
    taken = {fields[2] for fields in found.values()}
    for name, default in GROUPS.items():
        if name not in found and str(default) not in taken:
            found[name] = [name, "*", str(default), ""]
    return _table(found.values())


def _table(entries: Iterable[list[str]]) -> str:
    return "".join(":".join(fields) + "\n" for fields in sorted(entries, key=lambda fields: int(fields[2])))
