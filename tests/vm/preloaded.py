"""A process that has all of vsprov loaded and forks for each command line: an emulated CPU takes seconds to
load it, and did little else in most tests.

`python -m tests.vm.preloaded SOCKET` leaves that process behind and ends when it listens; `run` is its client
and, for `tests.instance`, stands in for subprocess.run. Nothing of vsprov has run in the process before it
forks, so what is forked begins as a new one would.
"""

from __future__ import annotations

import json
import os
import pkgutil
import signal
import socket
import struct
import subprocess
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from pathlib import Path
from typing import Any, NoReturn

SOCKET = "VSPROV_PRELOADED"  # the environment variable that says where it listens
ALONE = ("vsprov.__main__", "vsprov.guest", "vsprov.store.unpack")  # programs of their own
LATE = ("jinja2.sandbox", "jsonschema", "rich.progress", "subprocess")  # what vsprov loads when it needs it
LONGEST = 1 << 17  # bytes of a request


def main(path: str) -> None:
    import vsprov

    for module in pkgutil.walk_packages(vsprov.__path__, "vsprov."):
        if not module.name.startswith(ALONE):
            import_module(module.name)
    for name in LATE:
        import_module(name)
    server = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    server.bind(path)
    server.listen()
    if os.fork() == 0:
        nothing = os.open(os.devnull, os.O_RDWR)
        for number in range(3):
            os.dup2(nothing, number)
        serve(server)


def serve(server: socket.socket) -> NoReturn:
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for the children
    while True:
        client, _ = server.accept()
        if os.fork() == 0:
            server.close()
            answer(client)
        client.close()


def answer(client: socket.socket) -> NoReturn:
    """Run the command line a client asks for, in a child; tell the client its pid, and then its exit code."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    request, fds, _, _ = socket.recv_fds(client, LONGEST, 3)
    pid = os.fork()
    if pid == 0:
        become(json.loads(request), fds)
    for fd in fds:
        os.close(fd)
    client.send(struct.pack("i", pid))
    client.send(struct.pack("i", os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])))
    os._exit(0)


def become(request: dict[str, Any], fds: list[int]) -> NoReturn:
    """End as `python -m vsprov` would."""
    from vsprov.cli import main

    for number, fd in enumerate(fds):
        os.dup2(fd, number)
    os.closerange(3, 64)
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["environment"])
    sys.argv = ["vsprov", *request["arguments"]]
    code = 1
    try:
        main()
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 0
    except BaseException:
        sys.excepthook(*sys.exc_info())
    sys.stdout.flush()
    os._exit(code)


def run(
    command: Sequence[str],
    *,
    input: str = "",
    timeout: float,
    cwd: Path | None = None,
    env: Mapping[str, str],
    **_: Any,
) -> subprocess.CompletedProcess[str]:
    """Have the command of an instance run, and return how it ended and all that it said."""
    ends = [os.pipe() for _ in range(3)]
    (stdin, our_in), (our_out, stdout), (our_err, stderr) = ends
    arguments = command[command.index("vsprov") + 1 :]
    request = {"arguments": arguments, "environment": dict(env), "cwd": str(cwd or Path.cwd())}
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as client, ThreadPoolExecutor(3) as pool:
        client.connect(os.environ[SOCKET])
        socket.send_fds(client, [json.dumps(request).encode()], [stdin, stdout, stderr])
        for fd in (stdin, stdout, stderr):
            os.close(fd)
        writing = pool.submit(write, our_in, input)
        out, err = pool.submit(read, our_out), pool.submit(read, our_err)
        client.settimeout(timeout)
        (pid,) = struct.unpack("i", client.recv(4))
        try:
            (code,) = struct.unpack("i", client.recv(4))
        except TimeoutError:
            os.kill(pid, signal.SIGKILL)
            raise subprocess.TimeoutExpired(command, timeout) from None
        writing.result()
        return subprocess.CompletedProcess(command, code, out.result(), err.result())


def write(fd: int, text: str) -> None:
    try:
        with open(fd, "w", errors="surrogateescape") as file:
            file.write(text)
    except BrokenPipeError:
        pass  # it ended without reading all


def read(fd: int) -> str:
    with open(fd, errors="surrogateescape") as file:
        return file.read()


if __name__ == "__main__":
    main(sys.argv[1])
