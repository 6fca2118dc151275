"""The programs of e2fsprogs, which work on file systems that are not mounted."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess

from vsprov.errors import FailedError
from vsprov.kernel.storage import full

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
PROGRAMS = ("mkfs.ext4", "e2fsck", "resize2fs")
_HINT = "apt install e2fsprogs"


def lack() -> str:
    """Which of the programs is not installed; "" if all are."""
    missing = (program for program in PROGRAMS if shutil.which(program, path=PATH) is None)
    return next((f"{program} is not installed ({_HINT})" for program in missing), "")


def run(image: str, program: str, *arguments: str, good: tuple[int, ...] = (0,)) -> None:
    """Run a program for an image; FailedError with what it has said last if it fails."""
    command = shutil.which(program, path=PATH)
    if command is None:
        raise FailedError(f"{image}: {program} is not installed", hint=_HINT)
    done = subprocess.run(
        [command, *arguments],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        env={"PATH": PATH, "LC_ALL": "C.UTF-8"},
        cwd="/",
        check=False,
    )
    if done.returncode not in good:
        said = (done.stderr or done.stdout).decode(errors="replace").strip().splitlines()
        is_full = any(os.strerror(errno.ENOSPC) in line for line in said)
        hint = full.hint(errno.ENOSPC, image) if is_full else ""
        raise FailedError(
            f"{image}: {program}: {' '.join(said[-2:]) or f'ended with {done.returncode}'}", hint=hint
        )
