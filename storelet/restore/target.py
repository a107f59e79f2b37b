"""The tree that is restored into: never outside it, never half a file, nothing overwritten unasked.

Every path is walked from the tree's root, directory by directory, and no symbolic link is
followed: neither one that was there nor one that an archive has put there. A file has no name
(O_TMPFILE) until it is whole and has its owner, mode and times; then it is linked to its name,
which fails where that is taken. Where file systems have no such files, it has a temporary name.

`find` looks at what is there; the rest writes. Not for several threads at once.
"""

from __future__ import annotations

import errno
import fcntl
import os
import resource
import stat
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from storelet.errors import StoreletError
from storelet.restore.listing import StoredMember
from storelet.restore.paths import RefusedError, temporary_name

__all__ = ["Target", "open_root"]

_ENTER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_OPEN_DIRECTORIES = 128  # kept open at most; entering one takes as long as writing a file
_PART = 8  # of the descriptors that a process may have is for these
_PRIVATE = 0o700
_READ_BYTES = 1 << 20
_SET_ID = stat.S_ISUID | stat.S_ISGID
# What chown(2) says of a file system without owners, and of those that a container does not know.
_NO_OWNER = {errno.EPERM, errno.EINVAL}
# What open(2) says of a file that has got its mode already, and of a symbolic link.
_NOT_WRITTEN = {errno.EACCES, errno.ELOOP}
_OTHER_RESTORE = "another restore is writing it"
# What open(2) says where there are no files without a name.
_NO_TEMPORARY = {errno.EOPNOTSUPP, errno.EISDIR, errno.ENOENT, errno.EINVAL}


def open_root(path: str, *, make: bool) -> int:
    """Open the directory that is restored into; `make` it where it is missing."""
    if make:
        with suppress(FileExistsError):  # if it is no directory, opening it says so
            os.makedirs(path)
    return os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)


class Target:
    """A tree, by the descriptor of its root; `replace` files that are there.

    Directories are kept open for what comes next, unless it `is_for_one` file.

    Methods raise RefusedError where a member cannot come where it belongs, and OSError where
    nothing can, such as on a full disk.
    """

    def __init__(self, root: int, *, replace: bool, is_for_one: bool = False) -> None:
        self._root = root
        self._replace = replace
        self._is_root = os.geteuid() == 0
        self._directories: OrderedDict[str, int] = OrderedDict()
        allowed, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        self._most_open = 1 if is_for_one else min(_OPEN_DIRECTORIES, max(allowed // _PART, 1))
        self._has_temporary = os.path.isdir("/proc/self/fd")

    def close(self) -> None:
        """Let go of all directories but the root."""
        while self._directories:
            os.close(self._directories.popitem()[1])

    def find(self, path: str) -> os.stat_result | None:
        """Return what is at a path, None where nothing is. Makes nothing."""
        parent, _, name = path.rpartition("/")
        with _refusing():
            try:
                return os.lstat(name, dir_fd=self._enter(parent, None))
            except FileNotFoundError:
                return None

    def read(self, path: str) -> Iterator[bytes]:
        """Yield what is in a file that is there."""
        parent, _, name = path.rpartition("/")
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        with (
            _refusing(),
            open(os.open(name, flags, dir_fd=self._enter(parent, None)), "rb") as file,
        ):
            while data := file.read(1 << 20):
                yield data

    def read_link(self, path: str) -> bytes:
        """Return what a symbolic link that is there points to."""
        parent, _, name = path.rpartition("/")
        with _refusing():
            return os.fsencode(os.readlink(name, dir_fd=self._enter(parent, None)))

    def make_directory(self, path: str) -> None:
        """Make a directory for its owner alone, until `finish_directory`; it may be there."""
        with _refusing():
            self._enter(path, _PRIVATE)

    def finish_directory(self, path: str, member: StoredMember) -> None:
        """Give a directory its owner, mode and time; what is in it must be there by now."""
        with _refusing():
            self._finish(self._enter(path, None), member)

    def write(self, path: str, member: StoredMember, content: Iterable[bytes]) -> None:
        """Write a file; what `content` raises comes through, and then there is none."""
        parent, _, name = path.rpartition("/")
        with _refusing():
            directory = self._enter(parent, 0o777)
            descriptor, temporary = self._open(directory, name)
            try:
                for data in content:
                    _write(descriptor, data)
                self._finish(descriptor, member)
                self._name(descriptor, temporary, directory, name)
            except BaseException:
                if temporary is not None:
                    os.unlink(temporary, dir_fd=directory)
                raise
            finally:
                os.close(descriptor)

    def make_symlink(self, path: str, member: StoredMember, points_to: bytes) -> None:
        """Make a symbolic link, wherever it points to: nothing goes through it."""
        parent, _, name = path.rpartition("/")

        if b"\0" in points_to:
            raise RefusedError("it points to a name that holds a zero byte")

        def make(name: str) -> None:
            os.symlink(points_to, os.fsencode(name), dir_fd=directory)
            where: Any = {"dir_fd": directory, "follow_symlinks": False}
            self._give(member, lambda uid, gid: os.chown(name, uid, gid, **where))
            with suppress(OverflowError):
                os.utime(name, ns=(member.mtime_ns, member.mtime_ns), **where)

        with _refusing():
            directory = self._enter(parent, 0o777)
            self._put(directory, name, make)

    def make_link(self, path: str, to: str) -> None:
        """Make a hard link to a file that was restored before."""
        to_parent, _, to_name = to.rpartition("/")
        parent, _, name = path.rpartition("/")

        def make(name: str) -> None:
            where: Any = {"src_dir_fd": there, "dst_dir_fd": directory}
            os.link(to_name, name, **where, follow_symlinks=False)

        with _refusing():
            there = os.dup(self._enter(to_parent, None))
            try:
                directory = self._enter(parent, 0o777)
                self._put(directory, name, make)
            finally:
                os.close(there)

    def _enter(self, path: str, mode: int | None) -> int:
        """Return the descriptor of a directory; with a mode, it is made where it is missing."""
        if not path:
            return self._root
        known = self._directories.get(path)
        if known is not None:
            self._directories.move_to_end(path)
            return known
        parts = path.split("/")
        above, first = self._root, 0
        for number in range(len(parts) - 1, 0, -1):
            known = self._directories.get("/".join(parts[:number]))
            if known is not None:
                above, first = known, number
                break
        for number in range(first, len(parts)):
            is_last = number == len(parts) - 1
            above = _enter(above, parts[number], 0o777 if mode and not is_last else mode)
            self._directories["/".join(parts[: number + 1])] = above
            if len(self._directories) > self._most_open:
                os.close(self._directories.popitem(last=False)[1])
        return above

    def _open(self, directory: int, name: str) -> tuple[int, str | None]:
        """Open a new file in a directory; return its descriptor, and its name if it has one.

        That is to be `name` in the end.
        """
        flags = os.O_WRONLY | os.O_CLOEXEC
        if self._has_temporary:
            try:
                return os.open(".", flags | os.O_TMPFILE, 0o600, dir_fd=directory), None
            except OSError as error:
                if error.errno not in _NO_TEMPORARY:
                    raise
                self._has_temporary = False
        temporary = temporary_name(name)
        flags |= os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
        try:
            descriptor = os.open(temporary, flags, 0o600, dir_fd=directory)
        except FileExistsError:
            _remove_left(directory, temporary)
            descriptor = os.open(temporary, flags, 0o600, dir_fd=directory)
        if not _lock(descriptor) or not os.fstat(descriptor).st_nlink:
            os.close(descriptor)
            raise RefusedError(_OTHER_RESTORE)
        return descriptor, temporary

    def _finish(self, descriptor: int, member: StoredMember) -> None:
        """Set owner, mode and times, in this order: a new owner takes the set-id bits away.

        They are not given to a file that has not got its owner back.
        """
        mode = stat.S_IMODE(member.mode)
        self._give(member, lambda uid, gid: os.fchown(descriptor, uid, gid))
        found = os.fstat(descriptor)
        if (found.st_uid, found.st_gid) != (member.uid, member.gid):
            mode &= ~_SET_ID
        os.fchmod(descriptor, mode)
        with suppress(OverflowError):  # a year that this file system has not
            os.utime(descriptor, ns=(member.mtime_ns, member.mtime_ns))

    def _give(self, member: StoredMember, chown: Callable[[int, int], None]) -> None:
        """Give what is restored to its owner, as root, where that can be."""
        if self._is_root and member.uid is not None and member.gid is not None:
            try:
                chown(member.uid, member.gid)
            except OSError as error:
                if error.errno not in _NO_OWNER:
                    raise

    def _name(self, descriptor: int, temporary: str | None, directory: int, name: str) -> None:
        """Give a file that is whole its name."""
        where: Any = {"src_dir_fd": directory, "dst_dir_fd": directory}

        def link(name: str) -> None:
            # open(2), O_TMPFILE: the way that needs no capability. Python follows the symbolic
            # link only where it is given a directory's descriptor, which an absolute path ignores.
            os.link(f"/proc/self/fd/{descriptor}", name, **where, follow_symlinks=True)

        if temporary is None:
            self._put(directory, name, link)
            return
        if not self._replace and _is_there(directory, name):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), name)
        os.replace(temporary, name, **where)

    def _put(self, directory: int, name: str, make: Callable[[str], None]) -> None:
        """Have `make` make something of a name, which fails where the name is taken.

        To replace what is there it is made under another name first.
        """
        if not self._replace:
            make(name)
            return
        temporary = temporary_name(name)
        try:
            try:
                make(temporary)
            except FileExistsError:
                os.unlink(temporary, dir_fd=directory)  # a killed restore has left it
                make(temporary)
            os.replace(temporary, name, src_dir_fd=directory, dst_dir_fd=directory)
        finally:
            # Also rename(2) leaves it there, where both names are links to one file already.
            with suppress(FileNotFoundError):
                os.unlink(temporary, dir_fd=directory)


def _is_there(directory: int, name: str) -> bool:
    with suppress(FileNotFoundError):
        os.lstat(name, dir_fd=directory)
        return True
    return False


def _remove_left(directory: int, temporary: str) -> None:
    """Remove what a killed restore has left under a temporary name. Raises RefusedError."""
    flags = os.O_WRONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    with suppress(FileNotFoundError):
        try:
            descriptor = os.open(temporary, flags, dir_fd=directory)
        except OSError as error:
            if error.errno not in _NOT_WRITTEN:
                raise
            descriptor = -1
        try:
            if descriptor >= 0 and not _lock(descriptor):
                raise RefusedError(_OTHER_RESTORE)
            os.unlink(temporary, dir_fd=directory)
        finally:
            if descriptor >= 0:
                os.close(descriptor)


def _lock(descriptor: int) -> bool:
    """Tell whether nobody else has locked a file, and lock it until it is closed."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a file system without locks
        return True
    return True


def _enter(above: int, name: str, mode: int | None) -> int:
    """Open a directory in a directory; with a mode, make it where it is missing."""
    if mode is not None:
        with suppress(FileExistsError):
            os.mkdir(name, mode, dir_fd=above)
    return os.open(name, _ENTER, dir_fd=above)


def _write(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


_REASONS = {
    errno.EEXIST: "something is there already",
    errno.EISDIR: "a directory is there",
    errno.ENOTDIR: "on its way is something that is no directory, or a symbolic link to one",
    errno.ENOTEMPTY: "a directory is there",
}
# What concerns all that is to be written, not one member.
_FATAL = {
    errno.EDQUOT,
    errno.EIO,
    errno.EMFILE,
    errno.ENFILE,
    errno.ENOMEM,
    errno.ENOSPC,
    errno.EROFS,
}


@contextmanager
def _refusing() -> Iterator[None]:
    """Raise what concerns one member alone as RefusedError."""
    try:
        yield
    except StoreletError:  # some are an OSError, too
        raise
    except OSError as error:
        if error.errno in _FATAL:
            raise
        reason = _REASONS.get(error.errno or 0, error.strerror or str(error))
        raise RefusedError(reason) from error
    except ValueError as error:  # a zero byte in a link's target
        raise RefusedError(str(error)) from error
