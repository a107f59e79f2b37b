"""The control socket's place in the file system: taken, kept, given back.

The socket is bound under a temporary name and renamed, so that it never has another mode than
owner's and group's. It takes the place of a stale one that nobody listens on; anything else there
is left alone, at the start and later.
"""

from __future__ import annotations

import contextlib
import os
import socket
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from storelet import StoreletError

__all__ = ["Listener", "open_listener"]


class Listener:
    """A unix socket that listens at a path."""

    def __init__(self, path: Path) -> None:
        """Listen from now on. Raises StoreletError."""
        self.path = path
        self.socket = _bind(path)
        self._identity = _identity(path)

    def renew(self) -> bool:
        """Listen anew where the socket was removed; return whether it was.

        Who has a connection keeps it. The old socket is the caller's to close. Raises
        StoreletError where something else is in its place: that is left alone.
        """
        if _identity(self.path) == self._identity:
            return False
        self.socket = _bind(self.path)
        self._identity = _identity(self.path)
        return True

    def close(self) -> None:
        """Listen no more, and remove the socket where it is still ours."""
        with contextlib.suppress(OSError):
            if _identity(self.path) == self._identity:
                self.path.unlink()
        self.socket.close()


@contextmanager
def open_listener(path: Path) -> Iterator[Listener]:
    """Listen until the block ends. Raises StoreletError."""
    listener = Listener(path)
    try:
        yield listener
    finally:
        listener.close()


def _identity(path: Path) -> tuple[int, int] | None:
    """Return what tells one file from another, for as long as it is open."""
    try:
        found = path.lstat()
    except OSError:
        return None
    return (found.st_dev, found.st_ino)


def _bind(path: Path) -> socket.socket:
    try:
        _check_place(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        return _listen(path)
    except OSError as error:
        hint = "it may have 107 bytes (unix(7))" if len(os.fsencode(path)) > 90 else "give --socket"
        raise StoreletError(
            f"cannot listen on {path}: {error.strerror or error}", hint=hint
        ) from error


def _check_place(path: Path) -> None:
    """Raise StoreletError unless `path` is free or a socket that nobody listens on."""
    if not os.path.lexists(path):
        return
    if not stat.S_ISSOCK(path.lstat().st_mode):
        raise StoreletError(f"{path} is no socket and is left alone", hint="give --socket")
    with socket.socket(socket.AF_UNIX) as probe, contextlib.suppress(ConnectionRefusedError):
        probe.setblocking(False)
        with contextlib.suppress(BlockingIOError):  # so many wait that it has no room for one more
            probe.connect(str(path))
        raise StoreletError(f"another storeletd listens on {path}", hint="give --socket")


def _listen(path: Path) -> socket.socket:
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    listener = socket.socket(socket.AF_UNIX)
    before = os.umask(0o117)
    try:
        listener.bind(str(temporary))
        listener.listen(128)
        temporary.rename(path)
    except OSError:
        listener.close()
        temporary.unlink(missing_ok=True)
        raise
    finally:
        os.umask(before)
    return listener
