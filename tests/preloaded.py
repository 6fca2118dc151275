"""A process that has loaded all of vsprov and forks for each command line that a test runs.

Loading vsprov takes a third of a second of CPU, more than most commands need for their work, and ten times as
long in the emulated machine. `run` has the signature of subprocess.run, as far as `tests.instance` uses it.
No code of vsprov has run in the process before it forks. The child gets the environment, working directory,
umask and standard streams of the caller, and nothing else is open, so that it starts as a new process would.

What Python reads from its environment while it starts (PYTHON…, the locale) cannot be given to a process that
has started: `run` then starts the real program. With VSPROV_REAL=1 it always does.
"""

from __future__ import annotations

import ast
import atexit
import contextlib
import functools
import gc
import json
import os
import pkgutil
import re
import select
import signal
import socket
import struct
import subprocess
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import NoReturn

from tests import world

REAL = "VSPROV_REAL"  # the environment variable that turns the forking off
ALONE = ("vsprov.__main__", "vsprov.guest", "vsprov.store.unpack.")  # programs of their own
READ_AT_START = ("PYTHON", "LANG", "LC_", "LD_")  # the beginnings of names of variables
INDENTED_IMPORT = re.compile(rb"^ +(from [a-z_.0-9]+ import|import) ", re.MULTILINE)
LONGEST = 1 << 17  # bytes of a request
CHECKOUT = Path(__file__).resolve().parent.parent


# -- the process that forks


def load() -> None:
    """Import every module of vsprov, and what they import inside their functions."""
    import vsprov

    for module in pkgutil.walk_packages(vsprov.__path__, "vsprov."):
        if module.name.startswith(ALONE):
            continue
        import_module(module.name)
        spec = find_spec(module.name)
        assert spec and spec.origin
        text = Path(spec.origin).read_bytes()
        if not INDENTED_IMPORT.search(text):
            continue  # most have none, and parsing takes as long as importing
        functions = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.FunctionDef)]
        for node in (node for function in functions for node in ast.walk(function)):
            if isinstance(node, ast.Import | ast.ImportFrom):
                exec(compile(ast.Module([node], []), spec.origin, "exec"), {"__package__": spec.parent})


def serve(requests: socket.socket) -> None:
    """Fork for each request until the tests' process has ended."""
    load()
    if os.fork():
        os._exit(0)  # it is loaded; what goes on is not a child of the tests, some of which count theirs
    gc.collect()
    gc.freeze()  # the collector of a child would copy every page it looks at
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C ends the tests, and they end this
    running: dict[int, tuple[int, socket.socket]] = {}
    poll = select.poll()
    poll.register(requests, select.POLLIN)
    while True:
        for fd, _ in poll.poll():
            if fd != requests.fileno():
                poll.unregister(fd)
                pid, answers = running.pop(fd)
                code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
                with answers, contextlib.suppress(BrokenPipeError):  # who asked has killed it
                    answers.send(struct.pack("i", code))
                os.close(fd)
                continue
            request, fds, _, _ = socket.recv_fds(requests, LONGEST, 5)
            if not request:
                return
            pid = os.fork()
            if pid == 0:
                become(request, fds)
            for each in (*fds[:3], *fds[4:]):
                os.close(each)
            answers = socket.socket(fileno=fds[3])
            answers.send(struct.pack("i", pid))
            ended = os.pidfd_open(pid)
            running[ended] = pid, answers
            poll.register(ended, select.POLLIN)


def become(request: bytes, fds: list[int]) -> NoReturn:
    """End as `python -m vsprov` would."""
    asked = json.loads(request)
    module, _, name = asked["program"].partition(":")
    main = getattr(import_module(module), name)
    for number, fd in enumerate(fds[:3]):
        os.dup2(fd, number)
    if fds[4:]:
        world.enter(fds[4])
    os.closerange(3, 1 << 20)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.umask(asked["umask"])
    os.chdir(asked["cwd"])
    os.environ.clear()
    os.environ.update(asked["environment"])
    sys.argv = ["vsprov", *asked["arguments"]]
    code = 1
    try:
        main()
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 0
    except BaseException:
        sys.excepthook(*sys.exc_info())
    sys.stdout.flush()
    os._exit(code)


# -- the tests' process


@functools.cache
def forker() -> socket.socket:
    """The process that forks, started by the first call: where it takes requests."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    atexit.register(ours.close)
    with theirs:
        subprocess.run(
            [sys.executable, "-m", "tests.preloaded", str(theirs.fileno())],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            cwd=CHECKOUT,
            env=os.environ | {"PYTHONPATH": str(CHECKOUT)},
            pass_fds=[theirs.fileno()],
            check=True,
        )
    return ours


def is_used(env: Mapping[str, str] = os.environ) -> bool:
    """Whether command lines with this environment are forked."""
    told = {name: text for name, text in env.items() if name.startswith(READ_AT_START)}
    own = {name: text for name, text in os.environ.items() if name.startswith(READ_AT_START)}
    return not os.environ.get(REAL) and told | {"PYTHONPATH": ""} == own | {"PYTHONPATH": ""}


def _umask() -> int:
    """Our umask. Not by umask(2), which would change it for other threads meanwhile; proc_pid_status(5)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith("Umask:")), 8)


def run(
    command: Sequence[str],
    *,
    input: str = "",
    timeout: float,
    cwd: Path | None = None,
    env: Mapping[str, str],
    program: str = "vsprov.cli:main",
    network: int | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run `python -m vsprov …` to its end, and return what it said, its two streams apart.

    `program` is the function that a forked process calls, `network` an open network namespace to run it in.
    Raises subprocess.TimeoutExpired.
    """
    if not is_used(env):
        return subprocess.run(
            command if network is None else world.within(network, *command),
            input=input,
            capture_output=True,
            text=True,
            errors="surrogateescape",
            timeout=timeout,
            cwd=cwd,
            env=env,
        )
    request = {
        "program": program,
        "arguments": command[command.index("vsprov") + 1 :],
        "environment": dict(env),
        "cwd": str(cwd or Path.cwd()),
        "umask": _umask(),
    }
    ends = [os.pipe() for _ in range(3)]
    (stdin, our_in), (our_out, stdout), (our_err, stderr) = ends
    answers, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with answers, ThreadPoolExecutor(3) as pool:
        given = [stdin, stdout, stderr, theirs.fileno(), *([] if network is None else [network])]
        socket.send_fds(forker(), [json.dumps(request).encode()], given)
        theirs.close()
        for fd in given[:3]:
            os.close(fd)
        writing = pool.submit(write, our_in, input)
        out, err = pool.submit(read, our_out), pool.submit(read, our_err)
        (pid,) = struct.unpack("i", answers.recv(4))
        answers.settimeout(timeout)
        try:
            (code,) = struct.unpack("i", answers.recv(4))
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
    with socket.socket(fileno=int(sys.argv[1])) as given:
        given.set_inheritable(False)
        serve(given)
