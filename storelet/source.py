"""Sources: a directory or file walked into entries, and the reading of one.

`walk` yields, in a stable order, an `Entry` for each directory, regular file and symbolic link,
an observer's `Skipped` for what cannot be read and `Passed` for what has no place in a backup.
It opens nothing: `open_file` does, and copes with files that change or vanish.

Member names are made here; whether a name is free is the archive's matter.
"""

from __future__ import annotations

import errno
import os
import re
import stat
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain

from storelet.entry import Entry
from storelet.errors import SourceError, SourceMissingError, UsageError
from storelet.observer import Passed, Skipped, report_moved

__all__ = [
    "BLOCK_BYTES",
    "OpenedFile",
    "Source",
    "UnreadableError",
    "find_file",
    "never_include",
    "open_file",
    "read_link",
    "walk",
]

BLOCK_BYTES = 1 << 20  # read at once from a large file

_SPECIAL = {
    stat.S_IFIFO: "a FIFO",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a character device",
    stat.S_IFBLK: "a block device",
}
# https://bford.info/cachedir/
_CACHEDIR_SIGNATURE = b"Signature: 8a477f597d28d172789f06886806bc55"

# Without ever blocking on a FIFO or following a link put there since.
_READ_SAFELY = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC

_never_included: set[tuple[int, int]] = set()  # (device, inode) of directories


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """A directory to include, and how."""

    path: str  # absolute
    prefix: str = ""  # of member names: `www/` or empty
    exclude: tuple[str, ...] = ()  # gitignore patterns, relative to `path`
    exclude_caches: bool = False  # leave out what is in a directory with a valid CACHEDIR.TAG
    exclude_if_present: tuple[str, ...] = ()  # …or with a file of such a name
    one_file_system: bool = False  # leave out what is mounted beneath


class UnreadableError(Exception):
    """An entry cannot be read; the message is the reason. It becomes a skipped entry."""


@contextmanager
def never_include(path: str) -> Iterator[None]:
    """Pass over the directory `path` in every backup of this process until the block ends.

    For Storelet's own: destinations, temporary directories, state. A directory that does not
    exist is nobody's source and is left alone.
    """
    try:
        found = os.stat(path)
    except OSError:
        yield
        return
    key = (found.st_dev, found.st_ino)
    added = key not in _never_included
    _never_included.add(key)
    try:
        yield
    finally:
        if added:
            _never_included.discard(key)


def walk(source: Source) -> Iterator[Entry | Skipped | Passed]:
    """Walk a directory depth first, names in order; a directory comes before what is in it.

    The root itself has a member only where the prefix gives it a name. Raises SourceError, at
    once, where the root is missing or cannot be read; beneath it, nothing stops the walk.
    """
    try:
        root = os.stat(source.path)
        children = _scan(source.path)
    except FileNotFoundError as error:
        raise SourceMissingError(
            f"no such directory: {source.path}", hint="check the path that is to be included"
        ) from error
    except NotADirectoryError as error:
        raise SourceError(
            f"not a directory: {source.path}", hint="include a single file with include_file"
        ) from error
    except OSError as error:
        raise SourceError(f"cannot read directory {source.path}: {error.strerror}") from error
    found = _walk_children(source, children, root.st_dev)
    if source.prefix:
        return chain([Entry.of(source.path, source.prefix, root)], found)
    return found


def find_file(path: str, name: str) -> Entry:
    """Return the entry of a single file, symbolic links followed, as member `name`.

    Raises SourceError where it is missing or not a regular file.
    """
    try:
        found = os.stat(path)
    except FileNotFoundError as error:
        raise SourceMissingError(
            f"no such file: {path}", hint="check the path that is to be included"
        ) from error
    except OSError as error:
        raise SourceError(f"cannot read file {path}: {error.strerror}") from error
    if not stat.S_ISREG(found.st_mode):
        raise SourceError(
            f"not a regular file: {path}", hint="include directories with include_directory"
        )
    return Entry.of(os.path.realpath(path), name, found)


def _walk_children(
    source: Source, children: list[os.DirEntry[str]], device: int
) -> Iterator[Entry | Skipped | Passed]:
    """Walk with a stack of its own: a tree may be deeper than Python's."""
    is_excluded = _make_excluder(source)
    stack = [(source.prefix, iter(children))]
    while stack:
        prefix, rest = stack[-1]
        child = next(rest, None)
        if child is None:
            stack.pop()
            continue
        name = prefix + child.name
        try:
            found = child.stat(follow_symlinks=False)
            kind = stat.S_IFMT(found.st_mode)
            is_directory = kind == stat.S_IFDIR
            if is_excluded is not None and is_excluded(name, is_directory):
                continue
            if is_directory:
                if (found.st_dev, found.st_ino) in _never_included:
                    yield Passed(path=child.path, reason="Storelet's own")
                    continue
                yield Entry.of(child.path, name + "/", found)
                grandchildren = _scan(child.path)
                if not _is_left_empty(source, child.path, grandchildren, found.st_dev != device):
                    stack.append((name + "/", iter(grandchildren)))
            elif kind in _SPECIAL:
                yield Passed(path=child.path, reason=f"it is {_SPECIAL[kind]}")
            else:
                yield Entry.of(child.path, name, found)
        except OSError as error:
            yield Skipped(path=child.path, reason=_reason(error))


def _scan(path: str) -> list[os.DirEntry[str]]:
    report_moved()
    with os.scandir(path) as found:
        return sorted(found, key=lambda child: child.name)


def _make_excluder(source: Source) -> Callable[[str, bool], bool] | None:
    """Return the test of a member name against the patterns, relative to the source's root."""
    if not source.exclude:
        return None
    import pathspec  # 20 ms that a script without patterns need not spend

    try:
        spec = pathspec.GitIgnoreSpec.from_lines(source.exclude)
    except (ValueError, re.error) as error:
        raise UsageError(f"exclude pattern not understood: {error}") from error
    start = len(source.prefix)
    return lambda name, is_directory: spec.match_file(name[start:] + "/" * is_directory)


def _is_left_empty(
    source: Source, path: str, children: Iterable[os.DirEntry[str]], is_mount: bool
) -> bool:
    """Tell whether what is in a directory stays out of the archive, the directory itself not."""
    if is_mount and source.one_file_system:
        return True
    names = {child.name for child in children}
    if not names.isdisjoint(source.exclude_if_present):
        return True
    if not source.exclude_caches or "CACHEDIR.TAG" not in names:
        return False
    try:
        with open(os.path.join(path, "CACHEDIR.TAG"), "rb", opener=_open_regular) as tag:
            return tag.read(len(_CACHEDIR_SIGNATURE)) == _CACHEDIR_SIGNATURE
    except OSError:
        return False


def _open_regular(path: str, flags: int) -> int:
    return os.open(path, flags | _READ_SAFELY)


def _reason(error: OSError) -> str:
    if isinstance(error, FileNotFoundError):
        return "it vanished"
    if error.errno == errno.ELOOP:  # open(2), O_NOFOLLOW
        return "it is a symbolic link now"
    return error.strerror or str(error)


class OpenedFile:
    """A regular file that is being read; `entry` is it as it was when opened.

    After reading, `changed` tells that it changed meanwhile, and `broken_off` why reading
    stopped early. A context manager: it closes the file.
    """

    def __init__(self, entry: Entry, descriptor: int) -> None:
        self.entry = entry
        self.changed = False
        self.broken_off: str | None = None
        self._descriptor = descriptor

    def __enter__(self) -> OpenedFile:
        """Return itself."""
        return self

    def __exit__(self, *_error: object) -> None:
        """Close the file."""
        os.close(self._descriptor)

    def read_whole(self) -> bytes:
        """Return the content; a file that changed under us is read once more.

        Of one that grows past BLOCK_BYTES meanwhile only the beginning is given.
        Raises UnreadableError.
        """
        data = self._read_settled()
        if self.changed:
            self.entry = Entry.of(self.entry.path, self.entry.name, os.fstat(self._descriptor))
            os.lseek(self._descriptor, 0, os.SEEK_SET)
            data = self._read_settled()
        return data

    def blocks(self) -> Iterator[bytes]:
        """Yield the content in blocks of BLOCK_BYTES, as far as it can be read.

        At most as many bytes as it had when opened are given, never more.
        Raises UnreadableError where not even the first block can be.
        """
        done = 0
        try:
            while block := self._read(min(BLOCK_BYTES, self.entry.size - done)):
                done += len(block)
                report_moved(read=len(block))
                yield block
        except UnreadableError as error:
            if not done:
                raise
            self.broken_off = f"truncated at {done}: {error}"
        else:
            self.changed = done < self.entry.size or self._has_changed()

    def read_at(self, offset: int, size: int) -> bytes:
        """Return `size` bytes from `offset` on, or what there is. Raises UnreadableError."""
        try:
            return os.pread(self._descriptor, size, offset)
        except (OSError, OverflowError) as error:  # an offset that no file has
            raise UnreadableError(str(error)) from error

    def _read(self, size: int) -> bytes:
        """Return up to `size` bytes; one read may give less, and gives nothing at the end."""
        try:
            return os.read(self._descriptor, size)
        except BlockingIOError as error:  # the kernel has logs that look like regular files
            raise UnreadableError("reading it would block") from error
        except OSError as error:
            raise UnreadableError(_reason(error)) from error

    def _read_settled(self) -> bytes:
        expected = min(self.entry.size, BLOCK_BYTES)
        data = self._read(expected + 1)
        if len(data) != expected:  # a read of less, or it grew; of /proc and some FUSE the size
            pieces, size = [data], len(data)  # is a lie: they say 0
            while data and size < BLOCK_BYTES:
                pieces.append(data := self._read(BLOCK_BYTES - size))
                size += len(data)
            data = b"".join(pieces)
        self.changed = len(data) != self.entry.size or self._has_changed()
        return data

    def _has_changed(self) -> bool:
        now = os.fstat(self._descriptor)
        return (
            now.st_ctime_ns != self.entry.ctime_ns
            or now.st_mtime_ns != self.entry.mtime_ns
            or now.st_size != self.entry.size
        )


def open_file(entry: Entry) -> OpenedFile:
    """Open a regular file for reading.

    Raises UnreadableError where it cannot be opened or is no regular file any more.
    """
    try:
        descriptor = os.open(entry.path, _READ_SAFELY)
    except OSError as error:
        raise UnreadableError(_reason(error)) from error
    found = os.fstat(descriptor)
    if not stat.S_ISREG(found.st_mode):
        os.close(descriptor)
        raise UnreadableError("it is no regular file any more")
    return OpenedFile(Entry.of(entry.path, entry.name, found), descriptor)


def read_link(entry: Entry) -> bytes:
    """Return the target of a symbolic link. Raises UnreadableError."""
    try:
        return os.fsencode(os.readlink(entry.path))
    except OSError as error:
        raise UnreadableError(_reason(error)) from error
