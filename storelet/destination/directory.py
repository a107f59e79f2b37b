"""A directory as a destination.

An archive is written to a file without a name (O_TMPFILE), synced, and then linked to its name:
whatever happens before, nothing is left behind, and linking fails where the name is taken. File
systems without such files (NFS, FUSE) get a file with a temporary name instead.
"""

from __future__ import annotations

import errno
import logging
import os
import shlex
import stat
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from storelet.destination.contract import CopyFailedError, Stored, Traffic, is_archive_of
from storelet.destination.deletion import Failures, Files, delete_with_marks
from storelet.destination.filesystem import examine_file_system
from storelet.destination.finding import Finding
from storelet.destination.mark import look_for_marks, mark_name, mark_text
from storelet.errors import (
    ArchiveExistsError,
    DestinationError,
    DestinationMissingError,
    PermissionDeniedError,
    UsageError,
)
from storelet.observer import report_moved
from storelet.reuse import CopyLimits

__all__ = ["Directory"]

_log = logging.getLogger("storelet")

_READ_BYTES = 1 << 20
_COPY_BYTES = 128 << 20  # at once: what a signal can interrupt, and then a sign of life
_LIMITS = CopyLimits(smallest=1, usual=1 << 62, largest=1 << 62, most=1 << 62)
# What copy_file_range(2) says where it does not serve: older kernels, other file systems.
_NO_COPY = {errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EPERM}
_UNSUPPORTED = {errno.EOPNOTSUPP, errno.EISDIR, errno.ENOENT, errno.EINVAL}
# What link(2) says where there are no hard links: vfat and FUSE, CIFS, again FUSE.
_NO_LINKS = {errno.EPERM, errno.EACCES, errno.EOPNOTSUPP, errno.ENOSYS}
# What a directory says that cannot be synced: by its mode (`-wx`), or by its file system.
_NO_SYNC = {errno.EACCES, errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS}


class Directory:
    """Keeps archives in a directory, readable by their owner alone."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        if not os.fspath(path):
            raise UsageError(
                "the path of the directory to save to is empty",
                hint="give `.` for the current directory",
            )
        self.path = os.path.abspath(path)

        self.traffic = Traffic()

    @property
    def copy_limits(self) -> CopyLimits:
        """See the contract: a directory has no smallest copy."""
        return _LIMITS

    def __str__(self) -> str:
        """Name it in words."""
        return f"directory {self.path}"

    def open_upload(
        self, name: str, metadata: Mapping[str, str], size: int = 0
    ) -> _DirectoryUpload:
        """See the contract; a directory keeps no metadata, the archive has it inside."""
        if os.path.lexists(os.path.join(self.path, name)):
            raise ArchiveExistsError(f"{name} exists in {self}")
        return _DirectoryUpload(self, name)

    def list_archives(self, backup: str | None) -> list[Stored]:
        """See the contract."""
        try:
            names = set(os.listdir(self.path))
        except OSError as error:
            raise _explain(error, self, "read") from error
        found = [self.find_archive(name) for name in names if is_archive_of(name, backup)]
        return look_for_marks((each for each in found if each is not None), names)

    def list_versions(self, backup: str | None) -> list[Stored]:
        """See the contract: a directory keeps none."""
        return self.list_archives(backup)

    def find_archive(self, name: str) -> Stored | None:
        """See the contract."""
        try:
            found = os.stat(os.path.join(self.path, name), follow_symlinks=False)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise _explain(error, self, "read") from error
        return _stored(name, found) if stat.S_ISREG(found.st_mode) else None

    def url_of(self, archive: Stored) -> str:
        """See the contract."""
        return Path(self.path, archive.name).as_uri()

    def read(self, archive: Stored, offset: int, size: int) -> bytes:
        """See the contract."""
        with self._open_archive(archive) as descriptor:
            data = os.pread(descriptor, size, offset)
            report_moved()
            if len(data) < size:
                raise DestinationError(f"{archive.name} in {self} is shorter than it was")
            return data

    def mark_bad(self, archive: Stored, reason: str) -> None:
        """See the contract."""
        with self._open_archive(archive):
            pass  # it is the one that was found
        path = os.path.join(self.path, mark_name(archive.name))
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            with open(os.open(path, flags, mode=0o600), "wb", buffering=0) as file:
                file.write(mark_text(reason))
                os.fsync(file.fileno())
            _sync_directory(self.path)
        except OSError as error:
            raise _explain(error, self) from error

    def delete_archives(self, archives: Sequence[Stored]) -> None:
        """See the contract."""
        delete_with_marks(archives, self._delete_files)

    def why_untried(self) -> None:
        """See the contract: whatever is written here can be deleted."""

    def examine_place(self, backup: str, made: Stored | None) -> Iterator[Finding]:
        """See the contract."""
        sizes = [each.size for each in self.list_archives(backup)]
        yield from examine_file_system(self.path, sizes[-1] if sizes else None)

    def _delete_files(self, files: Files) -> Failures:
        failures = {}
        for name, archive in files.items():
            try:
                self._delete_file(name, archive)
            except DestinationError as error:
                failures[name] = error
        if files:
            try:
                _sync_directory(self.path)  # no mark may go before its archive has gone for good
            except OSError as error:
                raise _explain(error, self) from error
        return failures

    def _delete_file(self, name: str, archive: Stored | None) -> None:
        found = self.find_archive(name)
        if archive is not None:
            if found is None:
                return
            if not archive.is_same(found):
                raise DestinationError(f"another file has its name in {self} now")
        try:
            os.unlink(os.path.join(self.path, name))
        except FileNotFoundError:
            return
        except OSError as error:
            raise _explain(error, self, "delete from") from error

    @contextmanager
    def _open_archive(self, archive: Stored) -> Iterator[int]:
        """Open an archive, and see that it is the one that was found."""
        path = os.path.join(self.path, archive.name)
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
            try:
                if not archive.is_same(_stored(archive.name, os.fstat(descriptor))):
                    raise DestinationError(f"{archive.name} in {self} is another file now")
                yield descriptor
            finally:
                os.close(descriptor)
        except FileNotFoundError as error:
            raise DestinationError(f"{archive.name} is not in {self} any more") from error
        except OSError as error:
            raise _explain(error, self, "read") from error


class _DirectoryUpload:
    def __init__(self, directory: Directory, name: str) -> None:
        self._directory = directory
        self._target = os.path.join(directory.path, name)
        self._temporary: str | None = None  # the temporary name, where there must be one
        try:
            self._descriptor = self._open()
        except OSError as error:
            raise _explain(error, directory) from error

    def copy(self, source: Stored, ranges: Sequence[tuple[int, int]]) -> None:
        try:
            with self._directory._open_archive(source) as descriptor:
                for offset, size in ranges:
                    self._copy_range(descriptor, offset, size)
        except DestinationError as error:
            raise CopyFailedError(error.message, hint=error.hint) from error

    def write(self, data: bytes | memoryview) -> None:
        view = memoryview(data)
        self._directory.traffic += Traffic(0, len(view))
        try:
            while view:
                done = os.write(self._descriptor, view)
                report_moved(sent=done)
                view = view[done:]
        except OSError as error:
            raise _explain(error, self._directory) from error

    def commit(self) -> str:
        try:
            os.fsync(self._descriptor)
            self._link()
            _sync_directory(self._directory.path)
        except OSError as error:
            raise _explain(error, self._directory) from error
        finally:
            self.abort()
        return Path(self._target).as_uri()

    def abort(self) -> None:
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            with suppress(OSError):  # what was synced is safe, the rest is not wanted
                os.close(descriptor)
        if self._temporary is not None:
            try:
                os.unlink(self._temporary)
            except OSError as error:
                _log.warning("Could not remove %s: %s", self._temporary, error.strerror)
            self._temporary = None

    def _copy_range(self, source: int, offset: int, size: int) -> None:
        """Copy inside the kernel, where file systems that can share the bytes do."""
        end = offset + size
        while offset < end:
            at_once = min(_COPY_BYTES, end - offset)
            try:
                done = os.copy_file_range(source, self._descriptor, at_once, offset)
            except OSError as error:
                if error.errno not in _NO_COPY:
                    raise
                data = os.pread(source, min(at_once, _READ_BYTES), offset)
                self.write(data)
                done = len(data)
            report_moved()
            if not done:
                raise DestinationError("the archive before is shorter than it was")
            offset += done

    def _open(self) -> int:
        try:
            if os.path.isdir("/proc/self/fd"):  # by which it gets its name in the end
                flags = os.O_TMPFILE | os.O_WRONLY | os.O_CLOEXEC
                return os.open(self._directory.path, flags, mode=0o600)
        except OSError as error:
            if error.errno not in _UNSUPPORTED:
                raise
        descriptor, self._temporary = tempfile.mkstemp(
            prefix=".storelet-", suffix=".part", dir=self._directory.path
        )
        return descriptor

    def _link(self) -> None:
        """Give the file its name, unless that is taken: link(2) never replaces."""
        if self._temporary is None:
            # open(2), O_TMPFILE: the way that needs no capability. Python follows the symbolic
            # link only where it is given a directory's descriptor, which an absolute path ignores.
            name = f"/proc/self/fd/{self._descriptor}"
            os.link(name, self._target, src_dir_fd=self._descriptor, follow_symlinks=True)
            return
        try:
            os.link(self._temporary, self._target)
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            if os.path.lexists(self._target):
                raise FileExistsError(errno.EEXIST, "exists", self._target) from None
            os.rename(self._temporary, self._target)
            self._temporary = None


def _sync_directory(path: str) -> None:
    """Make a new name outlast a power cut, where that can be asked for."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        if error.errno not in _NO_SYNC:
            raise
        _log.debug("Could not sync %s: %s", path, error.strerror)


def _stored(name: str, found: os.stat_result) -> Stored:
    # Not the ctime, which a new link or an owner changes too.
    version = f"{found.st_dev}:{found.st_ino}:{found.st_mtime_ns}"
    return Stored(name=name, size=found.st_size, version=version, modified=found.st_mtime_ns / 1e9)


def _explain(error: OSError, directory: Directory, doing: str = "write to") -> DestinationError:
    """Say what went wrong with the directory and what may mend it."""
    message = f"cannot {doing} {directory}: {error.strerror}"
    match error.errno:
        case errno.EEXIST:
            return ArchiveExistsError(f"the name is taken in {directory}")
        case errno.ENOENT:
            return DestinationMissingError(
                f"no such directory: {directory.path}",
                hint=f"is it mounted? to make it: mkdir -p {shlex.quote(directory.path)}",
            )
        case errno.ENOTDIR:
            return DestinationMissingError(
                f"not a directory: {directory.path}", hint="archives are kept in a directory"
            )
        case errno.EXDEV:  # link(2): by its path another file system is there now
            return DestinationError(
                f"cannot {doing} {directory}: it is not there any more, or another one is",
                hint="was it unmounted meanwhile?",
            )
        case errno.EFBIG:
            return DestinationError(
                message, hint="its file system, or ulimit -f, allows no file that large"
            )
        case errno.ENOSPC | errno.EDQUOT:
            return DestinationError(message, hint="make room there or choose another directory")
        case errno.EACCES | errno.EPERM:
            return PermissionDeniedError(message, hint=f"see: ls -ld {shlex.quote(directory.path)}")
        case errno.EROFS:
            return PermissionDeniedError(
                message,
                hint="it is read-only here; under systemd add ReadWritePaths= to the service",
            )
        case _:
            return DestinationError(message)
