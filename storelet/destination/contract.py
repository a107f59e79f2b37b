"""What a destination promises. `tests/contract` holds every destination to it.

A name appears only when the archive is whole, and a taken name is never overwritten. Whoever
opened an upload ends it: by `commit` and, where that or anything before it raised, by `abort`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

__all__ = ["Destination", "Upload"]


class Upload(Protocol):
    """One archive on its way.

    All methods raise DestinationError, or UsageError where an option cannot be; nothing else.
    """

    def write(self, data: bytes | memoryview) -> None:
        """Append `data`, all of it."""

    def commit(self) -> str:
        """Make the archive whole and visible; return its URL.

        Raises ArchiveExistsError where the name was taken meanwhile.
        """

    def abort(self) -> None:
        """Leave nothing behind; may be called twice. Never raises: failing is logged."""


class Destination(Protocol):
    """A place for archives."""

    def __str__(self) -> str:
        """Name it in words: `bucket my-bucket`, `directory /srv/backups`."""

    def open_upload(self, name: str, metadata: Mapping[str, str]) -> Upload:
        """Begin an archive of the file name `name`.

        `metadata` (ASCII keys and values) is kept with it where the destination can. Raises
        ArchiveExistsError where the name is taken, DestinationMissingError where there is no
        such place: it is never made up.
        """
