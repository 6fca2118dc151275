"""What a new volume contains: a directory of an image, or an archive."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

from vsprov.engine.run.context import ApplyContext
from vsprov.errors import ImageError, reason
from vsprov.kernel import overlay, syscall
from vsprov.kernel.paths import FOLDER, walk_host
from vsprov.model.kinds.volume import ImageFolder, VolumeSource
from vsprov.model.sources import TarSource
from vsprov.store.disk.progress import Progress
from vsprov.store.hostimage import Bind
from vsprov.store.images import Contents
from vsprov.store.layers import layers, unpacking
from vsprov.store.sources.files import opened_file, plain
from vsprov.store.trees import copying, tree
from vsprov.store.trees.limits import LIMITS

_INSIDE = syscall.RESOLVE_IN_ROOT | syscall.RESOLVE_NO_MAGICLINKS | syscall.RESOLVE_NO_XDEV

Note = Callable[[str], None]


def fill(
    context: ApplyContext, source: VolumeSource | None, into: str, progress: Progress, note: Note
) -> None:
    """Fill the empty directory `into` from a source; None leaves it empty.

    `note` receives a line about files that were left out. Archives and images are hostile input: ImageError
    for what an image may not contain.
    """
    if source is None:
        return
    if source.image:
        _copy(context, source.image, into, progress, note)
    elif source.tar:
        _unpack(source.tar, into, progress, note)


def _unpack(source: TarSource, into: str, progress: Progress, note: Note) -> None:
    path = plain(source.path)
    with opened_file(path) as archive:
        done = unpacking.unpack(archive, into, whole=True, progress=progress, label=path)
    if source.sha256 is not None and source.sha256 != done.sha256:
        hint = "this is not the file that the manifest names; fetch it again, or correct sha256"
        raise ImageError(f"{path}: expected sha256 {source.sha256}, got {done.sha256}", hint=hint)
    if done.note:
        note(done.note)


def _copy(context: ApplyContext, source: ImageFolder, into: str, progress: Progress, note: Note) -> None:
    label = f"image {source.name}: {source.path}"
    contents = context.contents(source.name)
    with _opened(context, contents, source.path, label) as top:
        left_out = copying.copy(
            top,
            label,
            into,
            lambda count, size: progress("copied", size, 0),
            tree.image_reject_reason(LIMITS),
        )
    if left_out:
        note(left_out)


@contextmanager
def _opened(context: ApplyContext, contents: Contents, path: str, label: str) -> Iterator[int]:
    """A descriptor of a directory of an image, for reading, during the block."""
    with ExitStack() as held:
        try:
            root, below = _root(context, contents, path, held)
            top = syscall.openat2(root, below, os.O_RDONLY | os.O_DIRECTORY, _INSIDE)
        except OSError as error:
            raise ImageError(f"{label}: {reason(error)}") from error
        held.callback(os.close, top)
        try:
            yield top
        except OSError as error:
            raise ImageError(f"{label}: copy: {reason(error)}") from error


def _root(context: ApplyContext, contents: Contents, path: str, held: ExitStack) -> tuple[int, str]:
    """(a descriptor of a root directory, the path below it): of the image, or of what it binds there."""
    bind = next((bind for bind in contents.binds if _is_in(path, bind)), None)
    if bind:
        fd = walk_host(bind.source, links=False, owners=False).fd
        held.callback(os.close, fd)
        return fd, path.removeprefix(bind.target).strip("/") or "."
    trees = []
    for key in reversed(contents.layers):
        trees.append(os.open(layers.tree(context.instance, key), FOLDER))
        held.callback(os.close, trees[-1])
    if len(trees) > 1:
        trees = [overlay.merged(trees)]
        held.callback(os.close, trees[0])
    return trees[0], path


def _is_in(path: str, bind: Bind) -> bool:
    return f"{path}/".startswith(f"{bind.target}/")
