"""Entry point of the keeper: `python -I -S -B main.py INSTANCE ROOT LISTENER CLIENT`, with two sockets.
With a fifth word, `terminals`, it is the holder of terminals instead.

The modules are loaded as the package `keeper`, found beside this file, so that nothing else of vsprov is
imported, and all at once, because an upgrade may replace them while the keeper runs.
"""

import _signal  # type: ignore[import-not-found]
import gc
import os
import resource
import sys

HOME = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
OOM_SCORE = b"-900"  # servers are killed first


def main() -> None:
    """Become a process of its own, and serve until no server and no client is left."""
    if os.fork():
        os._exit(0)  # so that no child of the caller outlives it
    os.setsid()
    os.chdir("/")
    os.umask(0o077)
    sys.path.insert(0, HOME)
    terminals = sys.argv[5:] == ["terminals"]
    loop = __import__("keeper.terminals" if terminals else "keeper.loop", fromlist=["Loop"])
    gc.disable()  # nothing here makes reference cycles
    write("/proc/self/comm", b"vsprov-terminal" if terminals else b"vsprov-keeper")
    try:
        write("/proc/self/oom_score_adj", OOM_SCORE)
    except PermissionError:
        pass  # to lower it needs CAP_SYS_RESOURCE
    reset_inherited()
    instance, root, *sockets = sys.argv[1:5]
    loop.Loop(instance, root, *map(int, sockets)).serve()
    os._exit(0)


def reset_inherited() -> None:
    """Undo what the caller has chosen for its own processes, as far as we may, and close its descriptors."""
    for name in os.listdir("/proc/self/fd"):
        if int(name) > 2 and name not in sys.argv[3:5]:
            try:
                os.close(int(name))
            except OSError:  # EBADF: it was the one that listed them
                continue
    for limit in ("AS", "CPU", "DATA", "FSIZE", "NOFILE"):
        number = getattr(resource, f"RLIMIT_{limit}")
        most = resource.getrlimit(number)[1]
        resource.setrlimit(number, (most, most))
    _signal.pthread_sigmask(_signal.SIG_SETMASK, ())
    os.sched_setaffinity(0, range(os.cpu_count() or 1))
    try:
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
        os.setpriority(os.PRIO_PROCESS, 0, 0)
    except PermissionError:
        pass  # without CAP_SYS_NICE it stays as slow as its caller


def write(path: str, text: bytes) -> None:
    """Write a file of /proc by one write(2)."""
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, text)
    finally:
        os.close(fd)


if __name__ == "__main__":
    main()
