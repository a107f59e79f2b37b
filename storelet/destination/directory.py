"""A directory as a destination.

An archive is written to a file without a name (O_TMPFILE), synced, and then linked to its name:
whatever happens before, nothing is left behind, and linking fails where the name is taken. File
systems without such files (NFS, FUSE) get a file with a temporary name instead.
"""

from __future__ import annotations

import errno
import logging
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path

from storelet.errors import (
    ArchiveExistsError,
    DestinationError,
    DestinationMissingError,
    PermissionDeniedError,
)

__all__ = ["Directory"]

_log = logging.getLogger("storelet")

_UNSUPPORTED = {errno.EOPNOTSUPP, errno.EISDIR, errno.ENOENT, errno.EINVAL}


class Directory:
    """Keeps archives in a directory, readable by their owner alone."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = os.path.abspath(path)

    def __str__(self) -> str:
        """Name it in words."""
        return f"directory {self.path}"

    def open_upload(self, name: str, metadata: Mapping[str, str]) -> _DirectoryUpload:
        """See the contract; a directory keeps no metadata, the archive has it inside."""
        if not os.path.isdir(self.path):
            raise DestinationMissingError(
                f"no such directory: {self.path}",
                hint=f"is it mounted? to make it: mkdir -p {self.path}",
            )
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

    def write(self, data: bytes) -> None:
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
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
        if self._temporary is not None:
            try:
                os.unlink(self._temporary)
            except OSError as error:
                _log.warning("Could not remove %s: %s", self._temporary, error.strerror)
            self._temporary = None

    def _open(self) -> int:
        try:
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
        except PermissionError:  # a file system without hard links says EPERM, link(2)
            if os.path.lexists(self._target):
                raise FileExistsError(errno.EEXIST, "exists", self._target) from None
            os.rename(self._temporary, self._target)
            self._temporary = None


def _sync_directory(path: str) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _explain(error: OSError, directory: Directory) -> DestinationError:
    """Say what went wrong with the directory and what may mend it."""
    message = f"cannot write to {directory}: {error.strerror}"
    match error.errno:
        case errno.EEXIST:
            return ArchiveExistsError(f"the name is taken in {directory}")
        case errno.ENOENT:
            return DestinationMissingError(f"{directory} is gone", hint="is it still mounted?")
        case errno.ENOSPC | errno.EDQUOT:
            return DestinationError(message, hint="make room there or choose another directory")
        case errno.EACCES | errno.EPERM:
            return PermissionDeniedError(message, hint=f"see: ls -ld {directory.path}")
        case errno.EROFS:
            return PermissionDeniedError(
                message,
                hint="it is read-only here; under systemd add ReadWritePaths= to the service",
            )
        case _:
            return DestinationError(message)
