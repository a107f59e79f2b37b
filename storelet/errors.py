"""The errors Storelet raises, each with a hint and an exit code.

    StoreletError                     1    anything that ends a backup or a restore
    ├── SourceError                   1    what was to be included cannot be walked
    │   └── SourceMissingError        1    it is not there
    ├── UsageError                    2    a call that cannot mean anything
    ├── RestoreError                  1    the target cannot be written
    ├── DamagedArchiveError           1    what is in an archive is not what it should be
    ├── ArchiveMissingError           4    no such archive
    ├── MemberMissingError            4    no such member in an archive
    └── DestinationError              1    the archive cannot be written or kept
        ├── DestinationMissingError  10    no such bucket or directory
        ├── CredentialsError         12    no key or password, a wrong key
        │   └── WrongPasswordError   12    the archive has another password
        ├── PermissionDeniedError    77    the key or the user may not
        │   └── ArchiveLockedError   77    nobody may delete it yet
        └── ArchiveExistsError        1    the name is taken; nothing was overwritten

A message is lower case, without a full stop, and names the file, job or bucket; a hint is
a command or a setting that mends it. `is_temporary` tells of one that may pass by itself: no
network, a store that is down or overloaded, a connection that broke. What only concerns one entry
of a source is no error: it is a skipped entry (`observer.Skipped`) and the backup goes on.
"""

from __future__ import annotations

from collections.abc import Sequence

__all__ = [
    "ArchiveExistsError",
    "ArchiveLockedError",
    "ArchiveMissingError",
    "CredentialsError",
    "DamagedArchiveError",
    "DestinationError",
    "DestinationMissingError",
    "MemberMissingError",
    "PermissionDeniedError",
    "RestoreError",
    "SourceError",
    "SourceMissingError",
    "StoreletError",
    "UsageError",
    "WrongPasswordError",
    "join_errors",
]


class StoreletError(Exception):
    """Ends a backup; `str(error)` is the message, with the hint behind it where there is one."""

    exit_code = 1
    is_temporary = False  # whether the same, later, may go well though nobody mends anything

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message} ({self.hint})" if self.hint else self.message


class SourceError(StoreletError):
    """A source itself cannot be walked or read."""


class SourceMissingError(SourceError, FileNotFoundError):
    """There is no such directory or file."""


class UsageError(StoreletError, ValueError):
    """An argument that cannot mean anything, such as a name that leads out of the archive."""

    exit_code = 2


class RestoreError(StoreletError):
    """Nothing more can be written where members are restored to, such as on a full disk."""


class DamagedArchiveError(StoreletError):
    """A member cannot be read back as it was, or the archive has no catalogue."""


class ArchiveMissingError(StoreletError, FileNotFoundError):
    """There is no such archive."""

    exit_code = 4


class MemberMissingError(StoreletError, LookupError):
    """An archive has no such member."""

    exit_code = 4


class DestinationError(StoreletError):
    """The archive cannot be written or kept; nothing half-written has its name."""


class DestinationMissingError(DestinationError, FileNotFoundError):
    """The bucket or directory does not exist; Storelet never makes one up."""

    exit_code = 10


class CredentialsError(DestinationError):
    """The destination does not know the key, or there is none; or there is no password."""

    exit_code = 12


class WrongPasswordError(CredentialsError):
    """What is in an archive is encrypted with another password."""


class PermissionDeniedError(DestinationError, PermissionError):
    """The key or the user is known but may not do this."""

    exit_code = 77


class ArchiveLockedError(PermissionDeniedError):
    """A lock keeps the archive from being deleted for a time, whoever asks."""


class ArchiveExistsError(DestinationError, FileExistsError):
    """An archive of that name is there already and stays as it is."""


def join_errors(errors: Sequence[StoreletError]) -> StoreletError:
    """Return one error that says all.

    It has their exit code, where that is the same, and is temporary where all of them are.
    """
    if len(errors) == 1:
        return errors[0]
    joined = DestinationError(
        "; ".join(each.message for each in errors),
        hint="; ".join(dict.fromkeys(each.hint for each in errors if each.hint)) or None,
    )
    codes = {each.exit_code for each in errors}
    joined.exit_code = codes.pop() if len(codes) == 1 else joined.exit_code
    joined.is_temporary = all(each.is_temporary for each in errors)
    return joined
