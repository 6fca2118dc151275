"""The client of the spawner: one process that makes the first process of every server of an apply.

A request is a dict of plain values. Paths are absolute; all text may hold any bytes, as surrogates.

    hostname         text
    argv, env        as execve(2) takes them; argv[0] is looked for on env's PATH
    home             optional: true for a HOME in the environment, if env has none, from /etc/passwd
    cwd, umask       umask is a number
    user             "USER[:GROUP]", names or numbers, by the server's own /etc/passwd and /etc/group
    capabilities     numbers: the bounding set; for root also the permitted and effective one
    no_new_privs     bool
    host_network     optional: true to stay in the host's network namespace; there is no /sys then
    seccomp          optional: a classic BPF filter, packed struct sock_filter; not asked for yet
    rlimits          [(number, soft, hard)], -1 for none; of open files, if not given, those the spawner
                     was started with
    oom_score_adj    int or None; not asked for yet
    id_map           {"base", "size"} of its user namespace, None for none
    root             {"lower": [topmost first], "upper", "work", "read_only", "mount_at"}; without an upper
                     (None) it is read-only; mount_at: any directory, all servers may have the same;
                     optional "to_layer": true where the upper layer is to become one that stands for itself
    mounts           in their order; both kinds with "read_only", "nosuid", "nodev" (by default), "create" (by
                     default) and "noexec" (not asked for yet)
                       {"type": "tmpfs", "target", "size", "mode"}
                       {"type": "bind", "source", "target", "recursive", "idmap"}, and "nofollow": refuse a
                       symbolic link in the source (not asked for yet)
    masks            paths hidden before the mounts are made; may be absent
    read_only_paths  bound read-only on themselves before the mounts are made; may be absent
    cgroup           {"payload": cgroup2 directory or None, "attach": [v1 directories]}
    console          file for its output, or None
    reaper           a static program of the host that is to be its pid 1, or None
    own_memory       optional: true for a child with a copy of the spawner's memory. Else it shares that until
                     it executes: a third cheaper, but should its cgroup run out of memory in that moment, the
                     kernel kills both

Events:

    ready            {"pid", "start"}, and "unmapped": layers and sources of file systems that take no idmap
    running          it has executed its command
    exited           {"code"} or {"signal"}
    aborted          it is gone, as was asked
    failed           {"step", "errno" or 0, "path", "message"}: it is gone; path and message may be None

and, of the spawner itself, `unable`, as `failed` but without an id: it could not start.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from errno import EAGAIN, EMFILE, ENFILE
from marshal import dumps, loads
from types import TracebackType
from typing import Any, Self

from vsprov import PACKAGE
from vsprov.errors import FailedError, reason
from vsprov.kernel import proc, syscall

PROGRAM = os.path.join(PACKAGE, "guest", "spawner.py")
SECONDS_TO_LEAVE = 10.0
_BUFFER = 4 << 20
_HINTS = {
    EAGAIN: "the host, or the group vsprov runs in, is at its limit of processes: pids.max, ulimit -u",
    EMFILE: "vsprov has as many files open as it may: ulimit -n",
    ENFILE: "the host has as many files open as it may: fs.file-max",
}


def start(verb: str, fd: int, *options: str, session: bool, stdio: Sequence[int | None]) -> int:
    """Start the stand-alone program, `fd` its socket, `stdio` its fds 0, 1, 2 (None: /dev/null); its pid.

    OSError as open_tree(2) and posix_spawn(3); see `starting`.

    The interpreter is run from a detached read-only mount of its own: a guest whose program is
    "#!/proc/self/exe" could else write to the host's interpreter (CVE-2019-5736).
    """
    flags = ["-I", "-S", "-X", "utf8"] + (["-B"] if sys.dont_write_bytecode else [])
    interpreter = os.path.realpath(sys.executable)
    tree = syscall.open_tree(syscall.AT_FDCWD, interpreter, syscall.OPEN_TREE_CLONE)
    try:
        syscall.mount_setattr(tree, "", syscall.MOUNT_ATTR_RDONLY)
        actions: list[tuple[Any, ...]] = []
        for number, given in enumerate(stdio):
            if given is None:
                actions.append((os.POSIX_SPAWN_OPEN, number, "/dev/null", os.O_RDWR, 0))
            elif given != number:
                actions.append((os.POSIX_SPAWN_DUP2, given, number))
        os.set_inheritable(fd, True)
        return os.posix_spawn(
            f"/proc/self/fd/{tree}",
            [sys.executable, *flags, PROGRAM, verb, str(fd), *options],
            {},
            file_actions=actions,
            setsid=session,
        )
    finally:
        os.close(tree)


@contextmanager
def starting(what: str) -> Iterator[None]:
    """Tell what could not be started instead of an OSError, with a hint when a limit is in the way."""
    try:
        yield
    except OSError as error:
        raise FailedError(f"{what}: start: {reason(error)}", hint=_HINTS.get(error.errno or 0, "")) from error


def is_at_gate(pid: int) -> bool:
    """Whether a server's init is still the spawner's copy that waits to become the server's command."""
    words = (proc.read(f"/proc/{pid}/cmdline") or "").split("\0")
    return PROGRAM in words and "loop" in words


def _ends(pid: int) -> bool:
    """Wait for a child's end, SECONDS_TO_LEAVE at most; whether it has ended."""
    try:
        pidfd = os.pidfd_open(pid)
    except OSError:  # no descriptor is left
        return False
    try:
        return bool(select.select([pidfd], [], [], SECONDS_TO_LEAVE)[0])
    finally:
        os.close(pidfd)


class Spawner:
    """The running spawner. Leaving the context ends every server still at its gate; released ones live on.

    `fileno()` becomes readable when there are events; hand it to a selector. `in_python`: make the
    children's system calls in Python even where there is machine code for it.
    """

    def __init__(self, *, in_python: bool = False) -> None:
        self._ids = 0
        self._incoming = bytearray()
        self._ended = False
        self._outgoing = bytearray()
        options = ("python",) if in_python else ()
        with starting("spawner"), ExitStack() as undo:
            self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
            undo.enter_context(self._socket)
            with theirs:
                for end in (self._socket, theirs):
                    end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _BUFFER)
                self._pid = start("loop", theirs.fileno(), *options, session=True, stdio=(None, None, 2))
            self._socket.setblocking(False)
            undo.pop_all()

    @property
    def pid(self) -> int:
        return self._pid

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def fileno(self) -> int:
        """The fd to wait on."""
        return self._socket.fileno()

    def request(self, spawn: Mapping[str, Any]) -> int:
        """Ask for a server; the id its events will carry."""
        self._ids += 1
        self._send({"cmd": "spawn", "id": self._ids, **spawn})
        return self._ids

    def release(self, number: int) -> None:
        """Open the gate of a server that is `ready`."""
        self._send({"cmd": "release", "id": number})

    def abort(self, number: int) -> None:
        """End a server that is not running yet; `aborted` follows when it is gone."""
        self._send({"cmd": "abort", "id": number})

    def events(self) -> list[dict[str, Any]]:
        """What has happened since the last call, in order; does not wait. FailedError: the spawner died."""
        self._receive()
        found, start_at = [], 0
        while len(self._incoming) >= start_at + 4:
            end = start_at + 4 + int.from_bytes(self._incoming[start_at : start_at + 4], "little")
            if len(self._incoming) < end:
                break
            event = loads(self._incoming[start_at + 4 : end])
            if event["event"] == "unable":
                said = event["message"] or os.strerror(event["errno"])
                hint = _HINTS.get(event["errno"], "")
                raise FailedError(f"spawner: start: {event['step']}: {said}", hint=hint)
            found.append(event)
            start_at = end
        del self._incoming[:start_at]
        return found

    def close(self) -> None:
        """End the spawner and wait until it is gone; closing twice does no harm.

        It ends by itself at once, unless it is stopped.
        """
        if self._socket.fileno() >= 0:
            self._socket.close()
            if not _ends(self._pid):
                os.kill(self._pid, signal.SIGKILL)
            os.waitpid(self._pid, 0)

    def _send(self, message: Mapping[str, Any]) -> None:
        body = dumps(dict(message))
        self._outgoing += len(body).to_bytes(4, "little") + body
        while self._outgoing:
            try:
                sent = self._socket.send(self._outgoing, socket.MSG_NOSIGNAL)
                del self._outgoing[:sent]
            except BlockingIOError:
                # Neither side may wait for the other to read first.
                select.select([self._socket], [self._socket], [])
                self._receive()
            except (BrokenPipeError, ConnectionResetError):
                raise FailedError("spawner: died before it took a request") from None

    def _receive(self) -> None:
        while True:
            try:
                part = self._socket.recv(1 << 18)
            except BlockingIOError:
                return
            except ConnectionResetError:  # died with requests unread
                part = b""
            if not part:
                if self._incoming and not self._ended:
                    self._ended = True  # what it said before may be why
                    return
                raise FailedError("spawner: died", hint="its last words are on standard error")
            self._incoming += part
