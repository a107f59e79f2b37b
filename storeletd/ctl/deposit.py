"""Files that are written together or not at all, for nobody but their owner, and over none."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from pathlib import Path

__all__ = ["write_together"]

_DIRECTORY_MODE = 0o755  # of the job directory itself; of what is made in it 0700


def write_together(directory: Path, files: Sequence[tuple[Path, str]]) -> None:
    """Write files in or below a directory, the last one last; each appears when it is whole.

    Directories on the way are made. Raises OSError, FileExistsError where a name is taken; then,
    or interrupted, it leaves nothing.
    """
    with ExitStack() as undo:
        if not directory.is_dir():
            directory.mkdir(mode=_DIRECTORY_MODE)
            undo.callback(_remove_directory, directory)
        for path, text in files:
            if not path.parent.is_dir():
                path.parent.mkdir(mode=0o700)
                undo.callback(_remove_directory, path.parent)
            undo.callback(_Written(path, text).take_back)
        for parent in {path.parent for path, _ in files}:
            _sync(parent)
        undo.pop_all()


class _Written:
    """A file that was written just now."""

    def __init__(self, path: Path, text: str) -> None:
        self._path = path
        descriptor, temporary = tempfile.mkstemp(prefix=".storelet-", dir=path.parent)
        try:
            with open(descriptor, "wb") as file:
                file.write(text.encode())
                file.flush()
                os.fsync(file.fileno())
            os.link(temporary, path)  # never over another one
        finally:
            os.unlink(temporary)

    def take_back(self) -> None:
        """Remove it again."""
        with suppress(OSError):
            self._path.unlink()


def _remove_directory(path: Path) -> None:
    with suppress(OSError):
        path.rmdir()


def _sync(directory: Path) -> None:
    """Make new names outlast a power cut."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
