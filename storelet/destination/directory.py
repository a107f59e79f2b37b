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
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from storelet.errors import (
    ArchiveExistsError,
    DestinationError,
    DestinationMissingError,
    PermissionDeniedError,
    UsageError,
)

__all__ = ["Directory"]

_log = logging.getLogger("storelet")

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

    def __str__(self) -> str:
        """Name it in words."""
        return f"directory {self.path}"

    def open_upload(self, name: str, metadata: Mapping[str, str]) -> _DirectoryUpload:
        """See the contract; a directory keeps no metadata, the archive has it inside."""
        if os.path.lexists(os.path.join(self.path, name)):
            raise ArchiveExistsError(f"{name} exists in {self}")
        return _DirectoryUpload(self, name)


class _DirectoryUpload:
    def __init__(self, directory: Directory, name: str) -> None:
        self._directory = directory
        self._target = os.path.join(directory.path, name)
        self._temporary: str | None = None  # the temporary name, where there must be one
        try:
            self._descriptor = self._open()
        except OSError as error:
            raise _explain(error, directory) from error

    def write(self, data: bytes | memoryview) -> None:
        view = memoryview(data)
        try:
            while view:
                view = view[os.write(self._descriptor, view) :]
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


def _explain(error: OSError, directory: Directory) -> DestinationError:
    """Say what went wrong with the directory and what may mend it."""
    message = f"cannot write to {directory}: {error.strerror}"
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
