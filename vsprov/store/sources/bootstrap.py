"""The `bootstrap` source: images installed from packages by mmdebstrap(1) or debootstrap(8).

These programs run as the host's root and trust what the archive keys have signed. They have their own pid and
mount namespaces, so that their processes and mounts disappear with them, or with us. The result is a tar
archive, which is imported like any other.
"""

from __future__ import annotations

import contextlib
import fnmatch
import hashlib
import json
import os
import selectors
import shutil
import signal
import stat
import subprocess
import time
from collections.abc import Sequence

from vsprov.errors import HostError, ImageError
from vsprov.kernel.paths import FOLDER
from vsprov.model import fields
from vsprov.model.kinds.image import Image
from vsprov.model.sources import BootstrapSource
from vsprov.store.disk.progress import PACE, Progress
from vsprov.store.images import Contents, ImageRecord
from vsprov.store.instance import Instance
from vsprov.store.layers import unpacking
from vsprov.store.layers.layers import Batch
from vsprov.store.sources import Resolved, limits_of
from vsprov.store.trees.limits import Limits

PROGRAMS = ("mmdebstrap", "debootstrap")
# The kernel kills unshare(1) when the thread that started it ends, prctl(2), PR_SET_PDEATHSIG. That ends its
# child, the init of the pid namespace, and with that all processes in the namespace.
ALONE = (
    *("setpriv", "--pdeathsig", "KILL"),
    *("unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"),
)
# Files in /etc that the programs copy from the host, or that belong to a single system; machine-id(5).
EMPTIED = ("hostname", "machine-id", "resolv.conf")
# The keys that the package of sshd(8) creates once. Servers of one image must not share them.
HOST_KEYS = "ssh_host_*_key*"
KEYS_UNIT = ("systemd", "system", "ssh.service.d", "host-keys.conf")  # in /etc; systemd.unit(5)
KEYS_UNIT_TEXT = """\
# The image has no host keys, because its servers must not share them: create them at the first start.
[Service]
ExecStartPre=
ExecStartPre=/usr/bin/ssh-keygen -A
ExecStartPre=/usr/sbin/sshd -t
"""
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
SECONDS_BETWEEN_KILLS = 0.05
KEPT_OF_OUTPUT = 64 << 10
# The variables that the programs get; others could change the result.
ENVIRONMENT = ("http_proxy", "https_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY")


def resolve(instance: Instance, image: Image, known: ImageRecord | None, refresh: bool) -> Resolved:
    assert image.source.bootstrap is not None
    recipe = _digest(image.source.bootstrap)
    fingerprint = f"bootstrap {recipe}"
    if refresh:
        return Resolved(hashlib.sha256(f"{recipe} {time.time_ns()}".encode()).hexdigest(), fingerprint)
    if known is not None and known.fingerprint == fingerprint:
        return Resolved(known.digest, fingerprint)
    find_program()
    return Resolved(recipe, fingerprint)


def fetch(batch: Batch, image: Image, resolved: Resolved) -> Contents:
    source = image.source.bootstrap
    assert source is not None
    batch.make(resolved.digest, lambda into: _fill(source, into, limits_of(image), batch.progress))
    return Contents((resolved.digest,))


def _digest(source: BootstrapSource) -> str:
    """The SHA-256 over the request; only the installation shows the packages."""
    recipe = {"bootstrap": 1, "architecture": os.uname().machine, **fields.write(source)}
    return hashlib.sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest()


def find_program() -> str:
    """The path of the first of `PROGRAMS` that is installed; HostError if none is."""
    found = next((path for name in PROGRAMS if (path := shutil.which(name, path=PATH))), None)
    if found is None:
        raise HostError(
            f"source.bootstrap: none of {', '.join(PROGRAMS)} is installed", hint="apt install mmdebstrap"
        )
    return found


def _fill(source: BootstrapSource, into: str, limits: Limits, progress: Progress) -> None:
    """Install the packages and unpack the result into the empty directory `into`."""
    program = find_program()
    folder = os.path.dirname(into)  # everything else in it is removed with the layer's temporary name
    archive, root = f"{folder}/bootstrap.tar", f"{folder}/bootstrap"
    try:
        if program.endswith("mmdebstrap"):
            _run(_mmdebstrap(program, source, archive), folder, archive, progress)
        else:
            _run(_debootstrap(program, source, root), folder, archive, progress)
            tar = ["tar", "--numeric-owner", "--xattrs", "--xattrs-include=*", "--exclude=./dev/*"]
            _run([*tar, "-C", root, "-cf", archive, "."], folder, archive, progress)
        fd = os.open(archive, os.O_RDONLY | os.O_CLOEXEC)
        try:
            unpacking.unpack(fd, into, whole=True, limits=limits, progress=progress, label=source.suite)
        finally:
            os.close(fd)
        _make_anonymous(into)
    finally:
        shutil.rmtree(root, ignore_errors=True)
        if os.path.exists(archive):
            os.unlink(archive)


def _make_anonymous(into: str) -> None:
    """Remove from /etc what identifies a single system. Symbolic links are left alone."""
    etc = os.open(f"{into}/etc", FOLDER)
    try:
        for name in EMPTIED:
            if _is_file(etc, name):
                fd = os.open(name, os.O_WRONLY | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=etc)
                os.close(fd)
        with contextlib.suppress(FileNotFoundError):
            ssh = os.open("ssh", FOLDER, dir_fd=etc)
            try:
                keys = fnmatch.filter(os.listdir(ssh), HOST_KEYS)
                for name in keys:
                    os.unlink(name, dir_fd=ssh)
            finally:
                os.close(ssh)
            if keys:
                _create_keys_at_start(etc)
    finally:
        os.close(etc)


def _create_keys_at_start(etc: int) -> None:
    """Have systemd create the keys of sshd(8) that a server lacks: without any, sshd does not start."""
    folders = [etc]
    try:
        for name in KEYS_UNIT[:-1]:
            with contextlib.suppress(FileExistsError):
                os.mkdir(name, 0o755, dir_fd=folders[-1])
            folders.append(os.open(name, FOLDER, dir_fd=folders[-1]))
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        with open(os.open(KEYS_UNIT[-1], flags, 0o644, dir_fd=folders[-1]), "w") as file:
            file.write(KEYS_UNIT_TEXT)
    finally:
        for fd in folders[1:]:
            os.close(fd)


def _is_file(folder: int, name: str) -> bool:
    try:
        return stat.S_ISREG(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode)
    except FileNotFoundError:
        return False


def _mmdebstrap(program: str, source: BootstrapSource, archive: str) -> list[str]:
    words = [program, "--format=tar", f"--variant={source.variant}", *_common(source)]
    mirror = [source.mirror] if source.mirror else []
    return [*words, "--", source.suite, archive, *mirror]


def _debootstrap(program: str, source: BootstrapSource, root: str) -> list[str]:
    variant = [] if source.variant == "standard" else [f"--variant={source.variant}"]
    mirror = [source.mirror] if source.mirror else []
    return [program, *variant, *_common(source), source.suite, root, *mirror]  # it does not support "--"


def _common(source: BootstrapSource) -> list[str]:
    packages = [f"--include={','.join(source.packages)}"] if source.packages else []
    return [f"--components={','.join(source.components)}", *packages]


def _run(command: Sequence[str], folder: str, archive: str, progress: Progress) -> None:
    """Run a program. ImageError with its error messages if it fails."""
    environment = {name: os.environ[name] for name in ENVIRONMENT if name in os.environ}
    environment |= {"PATH": PATH, "TMPDIR": folder, "LC_ALL": "C.UTF-8", "DEBIAN_FRONTEND": "noninteractive"}
    child = subprocess.Popen(
        [*ALONE, *command], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        env=environment, cwd="/", process_group=0,
    )  # fmt: skip
    output = b""
    with child, selectors.DefaultSelector() as selector:
        assert child.stdout is not None
        selector.register(child.stdout, selectors.EVENT_READ)
        try:
            while True:
                progress("install packages", os.stat(archive).st_size if os.path.exists(archive) else 0, 0)
                if selector.select(PACE):
                    part = os.read(child.stdout.fileno(), 1 << 16)
                    if not part:
                        break
                    output = (output + part)[-KEPT_OF_OUTPUT:]
        except BaseException:
            _end(child)
            raise
    if child.returncode != 0:
        raise ImageError(
            f"{os.path.basename(command[0])} ended with {child.returncode}: {_error_message(output)}",
            hint="check the name of the suite and the connection to the mirror",
        )


def _end(child: subprocess.Popen[bytes]) -> None:
    """Kill the program with all of its processes, and wait for their end.

    Kills the child of unshare(1), which then waits for it; unshare itself would end before its child does.
    """
    while child.poll() is None:
        for init in _children(child.pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(init, signal.SIGKILL)
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(SECONDS_BETWEEN_KILLS)


def _children(parent: int) -> list[int]:
    """The child processes of `parent`, with zombies; proc_pid_stat(5), field 4."""
    found = []
    for name in os.listdir("/proc"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # the process has ended meanwhile
            if name.isdigit():
                with open(f"/proc/{name}/stat", "rb") as file:
                    if int(file.read().rpartition(b")")[2].split()[1]) == parent:
                        found.append(int(name))
    return found


def _error_message(output: bytes) -> str:
    """The first errors in the output of a program, as later ones are consequences; or its last lines."""
    lines = [line.strip() for line in output.decode(errors="replace").splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith(("E:", "dpkg: error"))]
    return "; ".join(errors[:3] or lines[-3:] or ["no output"])
