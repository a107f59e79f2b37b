"""Backups as plain zip files in Amazon S3, from a script of a few lines."""

from storelet.abandoned import AbandonedUpload, abandoned
from storelet.backup import NewDirectory, ZipBackup
from storelet.destination.directory import Directory
from storelet.destination.s3 import S3
from storelet.errors import (
    ArchiveExistsError,
    ArchiveMissingError,
    CredentialsError,
    DamagedArchiveError,
    DestinationError,
    DestinationMissingError,
    MemberMissingError,
    PermissionDeniedError,
    RestoreError,
    SourceError,
    SourceMissingError,
    StoreletError,
    UsageError,
    join_errors,
)
from storelet.logs import LOGGING_DEFAULTS, setup_logging
from storelet.observer import (
    Added,
    Event,
    Figures,
    Filling,
    Moved,
    NotReused,
    Observer,
    Passed,
    Refused,
    Restored,
    Reused,
    Saved,
    Skipped,
    Truncated,
    UploadEnded,
    UploadOpened,
    observe,
)
from storelet.restore.extraction import Unpacked
from storelet.restore.listing import StoredMember
from storelet.restore.opened import OpenedArchive, open_archive
from storelet.source import never_include

__all__ = [
    "LOGGING_DEFAULTS",
    "S3",
    "AbandonedUpload",
    "Added",
    "ArchiveExistsError",
    "ArchiveMissingError",
    "CredentialsError",
    "DamagedArchiveError",
    "DestinationError",
    "DestinationMissingError",
    "Directory",
    "Event",
    "Figures",
    "Filling",
    "MemberMissingError",
    "Moved",
    "NewDirectory",
    "NotReused",
    "Observer",
    "OpenedArchive",
    "Passed",
    "PermissionDeniedError",
    "Refused",
    "RestoreError",
    "Restored",
    "Reused",
    "Saved",
    "Skipped",
    "SourceError",
    "SourceMissingError",
    "StoredMember",
    "StoreletError",
    "Truncated",
    "Unpacked",
    "UploadEnded",
    "UploadOpened",
    "UsageError",
    "ZipBackup",
    "abandoned",
    "join_errors",
    "never_include",
    "observe",
    "open_archive",
    "setup_logging",
]
