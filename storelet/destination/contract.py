"""What a destination promises. `tests/contract` holds every destination to it.

A name appears only when the archive is whole, and a taken name is never overwritten. Whoever
opened an upload ends it: by `commit` and, where that or anything before it raised, by `abort`.

All methods raise DestinationError, or UsageError where an option cannot be; nothing else.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from storelet.destination.finding import Finding
from storelet.errors import DestinationError
from storelet.reuse import CopyLimits

__all__ = [
    "CopyFailedError",
    "Destination",
    "Stored",
    "Traffic",
    "Upload",
    "backup_of",
    "is_archive_of",
]

_ARCHIVE_NAME = re.compile(r"(.+)_[0-9]{14}\.zip", re.DOTALL)


class CopyFailedError(DestinationError):
    """The archive before cannot be copied from; without copies the upload may well do."""

    def __init__(self, message: str, *, hint: str | None = None, offset: int | None = None) -> None:
        super().__init__(message, hint=hint)
        self.offset = offset  # of the copy that failed, where it was one


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """An archive that stands at a destination."""

    name: str  # of its file
    size: int  # bytes
    version: str  # another one wherever the bytes may be others: S3's ETag
    modified: float  # seconds since the epoch, by the destination's clock
    is_bad: bool = False  # it has a mark that says so; only a listing tells
    version_id: str | None = None  # by which it can be read though its name stands for others
    is_deleted: bool = False  # its name stands for nothing any more, or for another one

    def is_same(self, other: Stored) -> bool:
        """Tell whether both are the same bytes, as far as the destination can tell."""
        return (self.name, self.size, self.version) == (other.name, other.size, other.version)


@dataclass(frozen=True, slots=True)
class Traffic:
    """What a destination object has caused so far, retries too."""

    requests: int = 0
    bytes_sent: int = 0

    def __add__(self, more: Traffic) -> Traffic:
        """Return both together."""
        return Traffic(self.requests + more.requests, self.bytes_sent + more.bytes_sent)

    def __sub__(self, earlier: Traffic) -> Traffic:
        """Return what was caused since."""
        return Traffic(self.requests - earlier.requests, self.bytes_sent - earlier.bytes_sent)


class Upload(Protocol):
    """One archive on its way."""

    def copy(self, source: Stored, ranges: Sequence[tuple[int, int]]) -> None:
        """Begin the archive with ranges (offset, size) of another one, before any `write`.

        Raises CopyFailedError, and so may what follows: copies go on meanwhile.
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

    @property
    def copy_limits(self) -> CopyLimits:
        """What `Upload.copy` takes."""

    @property
    def traffic(self) -> Traffic:
        """What has gone to the place through this object."""

    def __str__(self) -> str:
        """Name it in words: `bucket my-bucket`, `directory /srv/backups`."""

    def open_upload(self, name: str, metadata: Mapping[str, str], size: int = 0) -> Upload:
        """Begin an archive of the file name `name`, with about `size` bytes that are not copied.

        `metadata` (ASCII keys and values) is kept with it where the destination can. Raises
        ArchiveExistsError where the name is taken, DestinationMissingError where there is no
        such place: it is never made up.
        """

    def list_archives(self, backup: str | None) -> list[Stored]:
        """Return the archives that are named after the backup `backup`, or any: oldest first.

        One listing tells which are marked as bad too.
        """

    def list_versions(self, backup: str | None) -> list[Stored]:
        """Return all that is kept of the archives of a backup, or of any, oldest first.

        Where the destination keeps versions, these are deleted archives too, which `read` can
        read. Where it keeps none, and has none, it is what `list_archives` returns.
        """

    def url_of(self, archive: Stored) -> str:
        """Return the URL of an archive, as `Upload.commit` does, and where it is deleted its id."""

    def find_archive(self, name: str) -> Stored | None:
        """Return the archive of a file name, None where there is none."""

    def read(self, archive: Stored, offset: int, size: int) -> bytes:
        """Return bytes of an archive, all that are asked for.

        Raises DestinationError also where it is not the archive any more that was found.
        """

    def mark_bad(self, archive: Stored, reason: str) -> None:
        """Mark an archive as not to be trusted, for every host to see; may be done twice.

        The mark is a file `<name>.bad` beside it, with a line that says when, who and why. Raises
        DestinationError also where it is not the archive any more that was found.
        """

    def delete_archives(self, archives: Sequence[Stored]) -> None:
        """Delete archives, each with its mark; one that is gone already is none.

        What has come under an archive's name since it was found is never deleted, as far as the
        destination can tell. All are tried; then what kept any of them is raised.
        """

    def why_untried(self) -> str | None:
        """Return why nothing can be written for a trial: it could not be deleted. None: it can."""

    def examine_place(self, backup: str, made: Stored | None) -> Iterator[Finding]:
        """Yield what only such a destination has to tell of how archives of `backup` fare there.

        `made` is an archive that was made for a trial, and may be overwritten.
        """


def is_archive_of(file_name: str, backup: str | None) -> bool:
    """Tell whether a file is named like an archive of the backup `backup`, or of any."""
    named = backup_of(file_name)
    return named == backup if backup is not None else named is not None and "/" not in named


def backup_of(file_name: str) -> str | None:
    """Return the name of the backup whose archives have such file names; None for other files."""
    named = _ARCHIVE_NAME.fullmatch(file_name)
    return None if named is None else named[1]
