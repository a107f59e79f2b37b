"""What a backup puts into the directory for temporary files: the archive, new directories.

`$TMPDIR` is that directory. Nothing is left in it: the archive's file has no name at all, and a
new directory is removed at the end of its block, however that ends.
"""

from __future__ import annotations

import errno
import logging
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import IO

from storelet.errors import StoreletError

__all__ = ["Spool", "temporary_directory"]

_log = logging.getLogger("storelet")

_COPY_BYTES = 1 << 20


class Spool:
    """The archive in a temporary file without a name; a sink that can be read again."""

    def __init__(self) -> None:
        try:
            self._file: IO[bytes] = tempfile.TemporaryFile(  # noqa: SIM115 - closed by close()
                prefix="storelet-", buffering=0
            )
        except OSError as error:
            raise _explain_temporary(error) from error
        _log.debug("Made a temporary archive in %s", tempfile.gettempdir())

    @property
    def is_closed(self) -> bool:
        """Tell whether nothing of it is left."""
        return self._file.closed

    def write(self, data: bytes | memoryview) -> None:
        """Append `data`, all of it. Raises StoreletError."""
        view = memoryview(data)
        try:
            while view:
                view = view[os.write(self._file.fileno(), view) :]
        except OSError as error:
            raise _explain_temporary(error) from error

    def read(self, offset: int, size: int) -> Iterator[bytes]:
        """Yield `size` bytes from `offset` on; more may be written meanwhile.

        Raises StoreletError.
        """
        end = offset + size
        while offset < end:
            try:
                piece = os.pread(self._file.fileno(), min(_COPY_BYTES, end - offset), offset)
                if not piece:
                    raise OSError(errno.EIO, "what was written is not there any more")
            except OSError as error:
                raise _explain_temporary(error) from error
            offset += len(piece)
            yield piece

    def close(self) -> None:
        """Give the file back; may be called twice."""
        self._file.close()


@contextmanager
def temporary_directory() -> Iterator[str]:
    """Make a directory for its owner alone; remove it at the end. Raises StoreletError."""
    try:
        path = tempfile.mkdtemp(prefix="storelet-")
    except OSError as error:
        raise _explain_temporary(error) from error
    _log.debug("Made temporary directory %s", path)
    try:
        yield path
    finally:
        _remove_tree(path)


def _remove_tree(path: str) -> None:
    """Remove a directory, also where what filled it took permissions away.

    Not where something is still mounted in it: that may be what was to be backed up.
    """
    mounts = _find_mounts(os.path.realpath(path))
    if mounts:
        _log.warning("Left temporary directory %s: %s is mounted in it", path, mounts[0])
        return
    _allow_all(path)
    for directory, names, _files in os.walk(path):
        for name in names:
            _allow_all(os.path.join(directory, name))
    try:
        shutil.rmtree(path)
    except OSError as error:
        shutil.rmtree(path, ignore_errors=True)  # all but what cannot be removed
        _log.warning("Could not remove temporary directory %s: %s", path, error)


def _allow_all(directory: str) -> None:
    if not os.path.islink(directory):
        with suppress(OSError):  # of another user's; removing it says why it cannot be
            os.chmod(directory, 0o700)


def _find_mounts(path: str) -> list[str]:
    """Return what is mounted at or beneath a path."""
    try:
        with open("/proc/self/mountinfo", "rb") as file:
            fields = [os.fsdecode(line.split(b" ")[4]) for line in file]
    except OSError:  # no /proc, no way to know
        return []
    # proc(5): a space, a tab, a line end and a backslash are written as octal numbers.
    points = [re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), each) for each in fields]
    return [point for point in points if f"{point}/".startswith(f"{path}/")]


def _explain_temporary(error: OSError) -> StoreletError:
    try:
        place = f" in {tempfile.gettempdir()}"
    except OSError:  # where there is none, `error` names all that were tried
        place = ""
    return StoreletError(
        f"cannot write temporary files{place}: {error.strerror}",
        hint="set TMPDIR to a directory with enough room",
    )
