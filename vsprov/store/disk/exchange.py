"""Exchange several files or directories of the state root: all of them or none, also after a crash.

    <root>/exchange.json         while that takes place: the paths and what each of them is to be, sealed

A path is recognized by its inode, so that `resume` can be called at any moment, and again.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from threading import Lock

from vsprov.errors import FailedError
from vsprov.store.disk import durable, sealed

RECORD = "exchange.json"
_ONE_AT_A_TIME = Lock()

Pair = tuple[str, str]  # paths in one file system: the one that is in use, and the other


def exchange(root: str, pairs: Iterable[Pair]) -> None:
    """Exchange the names of each pair, safe from power failure; a path in use that is missing gets the other.

    Nobody may use the paths. After an error of the kernel (FailedError) they are what they were. Threads wait
    for each other, because there is one record.
    """
    with _ONE_AT_A_TIME:
        _exchange(root, tuple(pairs))


def _exchange(root: str, pairs: tuple[Pair, ...]) -> None:
    path = f"{root}/{RECORD}"
    try:
        wanted = [[os.path.relpath(one, root), os.path.relpath(other, root)] for one, other in pairs]
        inodes = [os.lstat(other).st_ino for _, other in pairs]
    except OSError as error:
        raise durable.failed(error.filename or root, "exchange", error) from error
    durable.write_file(path, sealed.seal({"pairs": wanted, "inodes": inodes}))
    done: list[Pair] = []
    try:
        for pair in pairs:
            exchange_one(pair)
            done.append(pair)
    except OSError as error:
        for one, other in reversed(done):
            exchange_one((other, one))
        os.unlink(path)
        raise durable.failed(pair[0], "exchange", error) from error
    try:
        _finish(path, pairs)
    except OSError as error:  # `resume` does it later
        raise durable.failed(path, "write the exchange to disk", error) from error


def exchange_one(pair: Pair) -> None:
    """Exchange the names of a pair, atomically. OSError from the kernel."""
    try:
        durable.exchange(*pair)
    except FileNotFoundError:
        durable.rename_new(pair[1], pair[0])


def resume(root: str) -> bool:
    """Complete an exchange that a crash has interrupted; whether there was one.

    FailedError if it cannot be, because somebody has changed the paths since.
    """
    path = f"{root}/{RECORD}"
    unfinished = durable.temporary(path)
    if os.path.lexists(unfinished):  # to unlink an absent file is EROFS on a read-only file system
        try:
            os.unlink(unfinished)
        except OSError as error:
            raise durable.failed(unfinished, "remove", error) from error
    if not os.path.lexists(path):
        return False
    content, problem = sealed.read(path)
    if content is None:  # `write_file` gives it its name only when it is complete
        raise FailedError(
            f"{root}: an exchange was interrupted: {problem}", hint=f"see {path}, and remove it"
        )
    pairs = [(f"{root}/{one}", f"{root}/{other}") for one, other in content["pairs"]]
    try:
        for pair, inode in zip(pairs, content["inodes"], strict=True):
            if _inode(pair[0]) != inode and _inode(pair[1]) == inode:
                exchange_one(pair)
        _finish(path, pairs)
    except OSError as error:
        raise durable.failed(path, "complete an interrupted exchange", error) from error
    return True


def _inode(path: str) -> int | None:
    try:
        return os.lstat(path).st_ino
    except FileNotFoundError:
        return None


def _finish(path: str, pairs: Iterable[Pair]) -> None:
    for folder in dict.fromkeys(os.path.dirname(each) for pair in pairs for each in pair):
        if os.path.isdir(folder):
            durable.flush_folder(folder)
    os.unlink(path)
