"""Images built on other images. Each step creates a layer, whose key is a sha256 over all its inputs.

A step is only carried out if there is no layer with its key yet. `copy` and `write` steps are packed as tar
archives and unpacked on top of the layers below like any other archive. A `run` step runs in a server of its
own, confined like every server, and its upper layer becomes the layer of the image.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import stat
import tarfile
from collections.abc import Generator, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any, BinaryIO

from vsprov.engine.images import buildserver
from vsprov.engine.run.context import ApplyContext
from vsprov.engine.run.schedule import Wait
from vsprov.errors import FailedError, ImageError, StepError, reason
from vsprov.model import fields
from vsprov.model.defaults import with_image_defaults
from vsprov.model.kinds.image import Image
from vsprov.model.sources import SHELL, BuildSource, CopyStep, Step, WriteStep
from vsprov.plan.steps import ImportImage
from vsprov.store import images, sources
from vsprov.store.disk import durable, folders
from vsprov.store.disk.marks import Owner
from vsprov.store.hostimage import TOP_LEVEL
from vsprov.store.images import Contents, ImageRecord
from vsprov.store.layers import layers
from vsprov.store.layers.layers import Batch
from vsprov.store.sources import Resolved
from vsprov.store.sources.files import opened_file
from vsprov.store.trees import acl, tree
from vsprov.store.trees.limits import Limits


def resolve(
    build: BuildSource, records: Mapping[str, ImageRecord], found: Mapping[str, Resolved]
) -> Resolved:
    """The current digest of the build: a sha256 over its base image, its steps, and the files they copy."""
    record = records.get(build.from_)
    if build.from_ in found:
        base, config = found[build.from_].digest, found[build.from_].config
    elif record is not None and record.contents is not None:
        base, config = record.digest, record.contents.config
    else:
        raise ImageError(f"build: image {build.from_} not found in the manifest or the store")
    inputs = [step_digest(step) for step in build.steps]
    defaults = fields.write(build.defaults)
    text = json.dumps({"build": 1, "base": base, "steps": inputs, "defaults": defaults}, sort_keys=True)
    digest = hashlib.sha256(text.encode()).hexdigest()
    whole = None if config is None else with_image_defaults(config, build.defaults)
    return Resolved(digest, f"build {digest}", whole, tuple(inputs))


def step_digest(step: Step) -> str:
    """The sha256 over the inputs of a step: its keys, and the contents of the files that it copies."""
    given = fields.write(step)
    if step.copy is not None:
        given["copy"] = {**given["copy"], "source": _source_digest(step.copy.source)}
    return hashlib.sha256(json.dumps(given, sort_keys=True).encode()).hexdigest()


def _source_digest(path: str) -> str:
    if os.path.isdir(path) and not os.path.islink(path):
        with tree.opened(path, links=False) as top:
            return tree.digest(top, path)
    with opened_file(path, links=False) as fd:
        mode = _mode(fd)
        with open(fd, "rb", closefd=False) as file:
            content = hashlib.file_digest(file, "sha256").hexdigest()
    return f"{mode:o} {os.path.basename(path)} {content}"


def import_image(context: ApplyContext, step: ImportImage, owner: Owner) -> Generator[Wait, Any, None]:
    """Carry out the steps whose layers do not exist, and write the record of the image."""
    want = context.wanted[f"Image/{step.image}"]
    assert isinstance(want.spec, Image) and want.spec.source.build is not None
    build, resolved, address = want.spec.source.build, context.resolved[step.image], want.address
    images.refuse_foreign(context.instance, step.image, owner, fields.write(want.spec))
    folders.prepare(context.instance)
    base = context.contents(build.from_)
    limits, progress = sources.limits_of(want.spec), context.threads.progress(address)
    keys = list(base.layers)
    for number, (one, given) in enumerate(zip(build.steps, resolved.found, strict=True), 1):
        key = hashlib.sha256("\n".join(("step", *keys, given)).encode()).hexdigest()
        # A finished layer is kept even if a later step fails; the next attempt continues there.
        with layers.batch(context.instance, progress) as batch:
            if not batch.has(key):
                context.notice(f"{address}: step {number} of {len(build.steps)}: {describe(one)}")
                below = Contents(tuple(keys), base.binds, base.config)
                try:
                    yield from _make(context, batch, step.image, key, one, given, below, limits)
                except (FailedError, OSError) as error:
                    text = str(error) if isinstance(error, FailedError) else reason(error)
                    hint = error.hint if isinstance(error, FailedError) else ""
                    text = text.removeprefix(f"{describe(one)}: ")
                    message = f"{address}: step {number}: {describe(one)}: {text}"
                    raise StepError(message, hint=hint) from error
                for note in batch.notes:
                    context.notice(f"{address}: step {number}: {note}")
        keys.append(key)
    images.write(
        context.instance,
        step.image,
        resolved.digest,
        Contents(tuple(keys), base.binds, with_image_defaults(base.config, build.defaults)),
        owner,
        spec=fields.write(want.spec),
        fingerprint=resolved.fingerprint,
    )


def describe(step: Step) -> str:
    """A short description of a step, for messages."""
    if step.copy is not None:
        return f"copy {step.copy.source} to {step.copy.target}"
    if step.write is not None:
        return f"write {step.write.path}"
    assert step.run is not None
    command = step.run.command[2:] if step.run.command[:2] == SHELL else step.run.command
    first, *more = " ".join(command).strip().splitlines()
    return f"run {first[:80]}{'…' if more or len(first) > 80 else ''}"


def _make(
    context: ApplyContext,
    batch: Batch,
    image: str,
    key: str,
    step: Step,
    given: str,
    below: Contents,
    limits: Limits,
) -> Generator[Wait, Any, None]:
    """Create the layer `key` of a step; `given` is the digest of its inputs that the key was made from."""
    _refuse_hidden(step, below)
    if step.run is not None:
        yield from buildserver.make(context, batch, image, key, step.run, below, limits)
    else:
        yield from context.threads.run(lambda: _unpack(batch, key, step, given, below, limits))


def _refuse_hidden(step: Step, below: Contents) -> None:
    """Raise ImageError if the target is below a folder of the host that is bound over the image."""
    target = step.copy.target if step.copy is not None else step.write.path if step.write is not None else ""
    top = target.split("/")[1] if target else ""
    for bind in below.binds:
        if f"{target}/".startswith(f"{bind.target}/") or (bind.target == "/usr" and top in TOP_LEVEL):
            raise ImageError(
                f"the host's {bind.target} is mounted there in servers of this image and would hide the file",
                hint="use another path, such as /opt or /srv, or build on an image that has its own files",
            )


def _unpack(batch: Batch, key: str, step: Step, given: str, below: Contents, limits: Limits) -> None:
    from vsprov.store.layers import unpacking

    trees = [batch.tree(one) for one in reversed(below.layers)]

    def fill(into: str) -> None:
        folder = os.path.dirname(into)
        work, packed = f"{folder}/work", f"{folder}/step.tar"
        os.mkdir(work, 0o700)
        with open(packed, "xb") as file:
            batch.note(_pack(step, file))
        # Later builds would use the layer of this key for inputs that it was not made from.
        if step.copy is not None and step_digest(step) != given:
            raise ImageError("it changed after it was checked", hint="try again when nothing writes to it")
        with opened_file(packed) as archive:
            unpacking.unpack(
                archive,
                into,
                merge=True,
                below=trees,
                work=work,
                limits=limits,
                progress=batch.progress,
                label=describe(step),
            )
        durable.remove_tree(work)
        os.unlink(packed)

    batch.make(key, fill)


def _pack(step: Step, file: BinaryIO) -> str:
    """Write the files of a copy or write step as a tar archive; a note about the special files left out."""
    left_out: dict[str, str] = {}
    with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT, errors="surrogateescape") as tar:
        if step.write is not None:
            _add(tar, _written(step.write), step.write.content.encode("utf-8", "surrogateescape"))
        else:
            assert step.copy is not None
            for info, opened in _copied(step.copy, left_out):
                if opened is None:
                    tar.addfile(info)
                else:
                    with opened as fd, open(fd, "rb", closefd=False) as content:
                        info.size = os.fstat(fd).st_size
                        tar.addfile(info, content)
    return tree.left_out_note(list(left_out.items())[: tree.LEFT_OUT_SHOWN], len(left_out))


def _add(tar: tarfile.TarFile, info: tarfile.TarInfo, data: bytes) -> None:
    info.size = len(data)
    tar.addfile(info, io.BytesIO(data))


def _written(step: WriteStep) -> tarfile.TarInfo:
    info = tarfile.TarInfo(step.path.lstrip("/"))
    info.mode = int(step.mode, 8)
    info.uid, info.gid = map(int, step.owner.split(":"))
    return info


def _copied(
    step: CopyStep, left_out: dict[str, str]
) -> Iterator[tuple[tarfile.TarInfo, AbstractContextManager[int] | None]]:
    """(member, context manager that opens its content or None) of a file, or of everything in a folder."""
    target = step.target.strip("/")
    uid, gid = map(int, step.owner.split(":"))
    if not os.path.isdir(step.source) or os.path.islink(step.source):
        name = f"{target}/{os.path.basename(step.source)}" if step.target.endswith("/") else target
        with opened_file(step.source, links=False) as fd:
            info = _member(name.lstrip("/"), os.fstat(fd), uid, gid, step.mode, _mode(fd))
            yield info, nullcontext(fd)
        return
    with tree.opened(step.source, links=False) as top:
        for entry in tree.image_entries(top, step.source, left_out=left_out):
            name = "/".join(part for part in (target, entry.path) if part)
            if not name:
                continue  # the image's own root
            if entry.kind == stat.S_IFLNK:
                info = _member(name, entry.status, uid, gid, None, 0o777)
                info.linkname = os.readlink(entry.name, dir_fd=entry.folder)
            else:
                with tree.opened_entry(entry, step.source) as fd:
                    info = _member(name, entry.status, uid, gid, step.mode, _mode(fd))
            yield info, tree.opened_entry(entry, step.source) if info.isreg() else None


def _mode(fd: int) -> int:
    """The mode of an open file without its access control list, which copies do not keep."""
    mode = stat.S_IMODE(os.fstat(fd).st_mode)
    return acl.rights_of_group(mode, os.getxattr(fd, acl.ACCESS)) if acl.ACCESS in os.listxattr(fd) else mode


def _member(
    name: str, status: os.stat_result, uid: int, gid: int, wanted: str | None, mode: int
) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type = {stat.S_IFDIR: tarfile.DIRTYPE, stat.S_IFLNK: tarfile.SYMTYPE}.get(
        stat.S_IFMT(status.st_mode), tarfile.REGTYPE
    )
    info.mode = int(wanted, 8) if wanted is not None and info.isreg() else mode
    info.uid, info.gid = uid, gid
    info.mtime = int(status.st_mtime)
    return info
