"""The tree being filled: its directories by descriptor, and which names the archive has made.

Names come from the archive. They are resolved directory by directory, as the kernel would in this root, and
each system call gets a descriptor of the directory and a last component, which is not followed.
"""

from __future__ import annotations

import errno
import os
import stat

from vsprov.store.trees import acl

from .refused import NeedsBelow, Refused

FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
KEPT_OPEN = 100  # directories
MAX_LINKS = 40  # in one path, as in path_resolution(7)


class Place:
    """A directory, open as long as it is referenced."""

    __slots__ = ("counted", "fd", "gid", "inherits", "made", "modified", "path")

    def __init__(self, path: str, fd: int, made: set[str]) -> None:
        status = os.fstat(fd)
        self.path = path  # from the root, without symbolic links; "" for the root itself
        self.fd = fd
        self.gid = status.st_gid
        self.inherits = acl.DEFAULT in os.listxattr(fd)  # what is made in it gets an access control list
        self.modified = status.st_mtime_ns
        self.made = made  # the names in it that the archive has made, or below which it has made something
        self.counted = False  # whether it and its parents are recorded as made

    def __del__(self) -> None:
        os.close(self.fd)


def joined(folder: str, name: str) -> str:
    return f"{folder}/{name}" if folder else name


class Tree:
    """The whole tree. With `alone`, the layers below are unknown: NeedsBelow is raised where they matter.

    A tree that is `in_use` was not made for this: only what is in its directories changes, not they.
    """

    def __init__(
        self,
        below: os.stat_result | None,
        depth: int,
        length: int,
        *,
        alone: bool,
        in_use: bool = False,
    ) -> None:
        self.depth = depth
        self.length = length
        self.alone = alone
        self.in_use = in_use
        self.places: dict[str, Place] = {}
        self.by_link: dict[str, Place] = {}  # by paths through symbolic links
        self.made: dict[str, set[str]] = {}
        self.links = 0  # followed in one path; each may lead to further ones
        self.times: dict[str, int] = {}  # mtimes to set when the directories are complete
        if in_use:
            return
        root = self.place("")
        # Overlay takes the root directory of the topmost layer, so each layer copies it from below.
        owner = (below.st_uid, below.st_gid) if below else (0, 0)
        os.fchown(root.fd, *owner)
        os.fchmod(root.fd, stat.S_IMODE(below.st_mode) if below else 0o755)
        root.gid = owner[1]
        self.times[""] = below.st_mtime_ns if below else 0

    def place(self, path: str, *, make: bool = False) -> Place:
        """The directory at `path`, with symbolic links resolved.

        With `make`, missing ones are created: owned by root, mode 0755, mtime 0. OSError as from the kernel.
        """
        found = self.places.get(path) or self.by_link.get(path)
        if found is not None:
            return found
        if not path:
            return self._opened("", os.open("/", FOLDER))
        self.links = 0
        found = self._walk(self.place(""), path, make)
        if found.path != path:
            self.by_link[path] = found
        return found

    def _opened(self, path: str, fd: int) -> Place:
        place = Place(path, fd, self.made.setdefault(path, set()))
        self.places[path] = place
        return place

    def _walk(self, here: Place, path: str, make: bool) -> Place:
        if path.startswith("/"):
            here = self.place("")
        for part in path.split("/"):
            if part == "..":
                here = self.place(here.path.rpartition("/")[0])
            elif part not in ("", "."):
                here = self._step(here, part, make)
        return here

    def _step(self, here: Place, name: str, make: bool) -> Place:
        path = joined(here.path, name)
        found = self.places.get(path)
        if found is not None:
            return found
        try:
            return self._opened(path, os.open(name, FOLDER, dir_fd=here.fd))
        except FileNotFoundError:
            if self.alone:
                raise NeedsBelow(f"{path!r} is not in it") from None
            if not make:
                raise
        except NotADirectoryError:
            if not stat.S_ISLNK(os.stat(name, dir_fd=here.fd, follow_symlinks=False).st_mode):
                raise
            self.links += 1
            if self.links > MAX_LINKS:
                raise OSError(errno.ELOOP, os.strerror(errno.ELOOP)) from None
            return self._walk(here, os.readlink(name, dir_fd=here.fd), make)
        place = self.make_folder(here, name)
        if here.inherits:
            acl.remove(place.fd)
            place.inherits = False
        os.fchown(place.fd, 0, 0)  # with the mode, as a setgid parent determines both
        os.fchmod(place.fd, 0o755)
        place.gid = 0
        self.times[path] = 0
        return place

    def make_folder(self, here: Place, name: str) -> Place:
        """Make the directory `name`, replacing anything else."""
        path = joined(here.path, name)
        if path.count("/") >= self.depth or len(os.fsencode(path)) > self.length:
            raise Refused(
                f"{path[:60]!r}…: lies too deep: "
                f"at most {self.depth} levels and {self.length} bytes are allowed"
            )
        self.change(here, name)
        try:
            os.mkdir(name, 0o755, dir_fd=here.fd)
        except FileExistsError:
            if not stat.S_ISDIR(os.stat(name, dir_fd=here.fd, follow_symlinks=False).st_mode):
                if self.alone:
                    # The contents of a directory in a layer below must not show through.
                    raise NeedsBelow(f"{path!r} becomes a directory after it was something else") from None
                self.remove(here, name)
                os.mkdir(name, 0o755, dir_fd=here.fd)
        return self.places.get(path) or self._opened(path, os.open(name, FOLDER, dir_fd=here.fd))

    def change(self, place: Place, name: str) -> None:
        """Record `name` in `place` as made by the archive, before it is made."""
        place.made.add(name)
        if place.counted:
            return
        place.counted = True
        if not self.in_use:
            self.times.setdefault(place.path, place.modified)
        path = place.path
        while path:
            path, _, last = path.rpartition("/")
            names = self.made.setdefault(path, set())
            if last in names:
                break
            names.add(last)

    def remove(self, place: Place, name: str) -> bool:
        """Remove `name` with everything in it; False if it does not exist."""
        try:
            os.unlink(name, dir_fd=place.fd)
            self.by_link.clear()  # it may have been a symbolic link
        except FileNotFoundError:
            return False
        except IsADirectoryError:
            self._remove_folder(place.fd, joined(place.path, name), name)
            self.forget()
        return True

    def _remove_folder(self, parent: int, path: str, name: str) -> None:
        fd = os.open(name, FOLDER, dir_fd=parent)
        try:
            for each in os.listdir(fd):
                try:
                    os.unlink(each, dir_fd=fd)
                except IsADirectoryError:
                    self._remove_folder(fd, joined(path, each), each)
        finally:
            os.close(fd)
        os.rmdir(name, dir_fd=parent)
        self.times.pop(path, None)
        self.made.pop(path, None)

    def clear(self, place: Place, name: str) -> None:
        """Remove what existed at `name` before this archive, and keep what the archive has made."""
        if name not in place.made:
            if self.remove(place, name):
                self.times.setdefault(place.path, place.modified)
            return
        if stat.S_ISDIR(os.stat(name, dir_fd=place.fd, follow_symlinks=False).st_mode):
            self.clear_folder(self._step(place, name, False))

    def clear_folder(self, place: Place) -> None:
        """Like `clear`, for everything in a directory, which is kept."""
        for name in os.listdir(place.fd):
            self.clear(place, name)

    def forget(self) -> None:
        """Close all directories; they are opened again when needed."""
        self.places.clear()
        self.by_link.clear()

    def tidy(self) -> None:
        """Limit the number of open directories; called between two members."""
        if len(self.places) > KEPT_OPEN:
            self.forget()

    def finish(self) -> None:
        """Set the mtimes of the directories, children first."""
        for path, when in sorted(self.times.items(), reverse=True):
            os.utime(self.place(path).fd, ns=(when, when))
            self.tidy()
