"""Backups as plain zip files in Amazon S3, from a script of a few lines."""

from storelet.abandoned import AbandonedUpload, abandoned
from storelet.backup import NewDirectory, ZipBackup
from storelet.destination.directory import Directory
from storelet.destination.examination import examine
from storelet.destination.finding import Finding
from storelet.destination.s3 import S3
from storelet.destination.s3lock import Lock
from storelet.encryption import Encryption
from storelet.errors import (
    ArchiveExistsError,
    ArchiveLockedError,
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
    WrongPasswordError,
    join_errors,
)
from storelet.logs import LOGGING_DEFAULTS, setup_logging
from storelet.observer import (
    Added,
    Deleted,
    Event,
    Figures,
    Filling,
    Moved,
    NotPruned,
    NotReused,
    Observer,
    Passed,
    Refused,
    Restored,
    Restoring,
    Reused,
    Saved,
    Skipped,
    Truncated,
    UploadEnded,
    UploadOpened,
    observe,
)
from storelet.pruning import PrunedArchive, prune
from storelet.restore.extraction import Unpacked
from storelet.restore.listing import StoredMember
from storelet.restore.opened import OpenedArchive, list_archives, open_archive
from storelet.retention import Keep
from storelet.source import never_include

__all__ = [
    "LOGGING_DEFAULTS",
    "S3",
    "AbandonedUpload",
    "Added",
    "ArchiveExistsError",
    "ArchiveLockedError",
    "ArchiveMissingError",
    "CredentialsError",
    "DamagedArchiveError",
    "Deleted",
    "DestinationError",
    "DestinationMissingError",
    "Directory",
    "Encryption",
    "Event",
    "Figures",
    "Filling",
    "Finding",
    "Keep",
    "Lock",
    "MemberMissingError",
    "Moved",
    "NewDirectory",
    "NotPruned",
    "NotReused",
    "Observer",
    "OpenedArchive",
    "Passed",
    "PermissionDeniedError",
    "PrunedArchive",
    "Refused",
    "RestoreError",
    "Restored",
    "Restoring",
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
    "WrongPasswordError",
    "ZipBackup",
    "abandoned",
    "examine",
    "join_errors",
    "list_archives",
    "never_include",
    "observe",
    "open_archive",
    "prune",
    "setup_logging",
]
